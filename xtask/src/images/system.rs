//! What the packages' maintainer scripts would have set up, written as files: accounts, links, the CA bundle, apt.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::deb::Kept;
use super::layer::Layer;
use super::recipe::{System, User};
use crate::{files, process};

const PROFILE: &str = "usr/share/base-files/profile";
const BASHRC: &str = "usr/share/base-files/dot.bashrc";
const ROOT_PROFILE: &str = "usr/share/base-files/dot.profile";
const PASSWD: &str = "usr/share/base-passwd/passwd.master";
const GROUP: &str = "usr/share/base-passwd/group.master";
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla/";
const BUSYBOX: &str = "bin/busybox";

/// The account files of a system, which a layer above may extend.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

impl Accounts {
    /// These accounts and one for each of `users`, whose group has the same number.
    pub(crate) fn with(&self, users: &[User]) -> Accounts {
        let mut all = self.clone();
        for User { name, id, home } in users {
            all.passwd
                .push_str(&format!("{name}:x:{id}:{id}::{home}:/usr/sbin/nologin\n"));
            all.group.push_str(&format!("{name}:x:{id}:\n"));
        }
        all
    }

    pub(crate) fn write(&self, layer: &mut Layer) -> Result<()> {
        let shadow: String = self
            .passwd
            .lines()
            .map(|line| {
                format!(
                    "{}:*:19000:0:99999:7:::\n",
                    line.split(':').next().unwrap_or_default()
                )
            })
            .collect();
        layer.file("etc/passwd", &self.passwd, 0o644)?;
        layer.file("etc/group", &self.group, 0o644)?;
        layer.owned_file("etc/shadow", shadow, 0o640, 42)?;
        layer.owned_file("etc/gshadow", "", 0o640, 42)
    }
}

/// The package files that [`after`] wants to see.
pub(crate) fn wanted(system: System) -> Vec<&'static str> {
    match system {
        System::Debian => vec![PROFILE, BASHRC, ROOT_PROFILE, PASSWD, GROUP, CERTIFICATES],
        System::Busybox => vec![BUSYBOX],
        System::Alpine => vec![CERTIFICATES],
    }
}

/// Folders and links that must be there before packages bring their own idea of them.
pub(crate) fn before(system: System, layer: &mut Layer) -> Result<()> {
    match system {
        System::Debian => {
            for dir in ["bin", "sbin", "lib", "lib64"] {
                layer.dir(&format!("usr/{dir}"), 0o755, 0)?;
                layer.link(dir, &format!("usr/{dir}"))?;
            }
            layer.dir("run", 0o755, 0)?;
            layer.dir("run/lock", 0o1777, 0)?;
            layer.link("var/run", "/run")?;
            layer.link("var/lock", "/run/lock")
        }
        System::Busybox => {
            let dirs = "bin sbin dev etc home run usr/bin usr/sbin usr/local/bin var/cache var/lib var/log var/www";
            for dir in dirs.split(' ') {
                layer.dir(dir, 0o755, 0)?;
            }
            for (dir, mode) in [
                ("proc", 0o555),
                ("sys", 0o555),
                ("root", 0o700),
                ("tmp", 0o1777),
                ("var/tmp", 0o1777),
            ] {
                layer.dir(dir, mode, 0)?;
            }
            layer.link("var/run", "../run")
        }
        System::Alpine => {
            // glibc programs find their interpreter below /lib64; /bin and /sbin stay busybox's.
            for dir in ["lib", "lib64"] {
                layer.dir(&format!("usr/{dir}"), 0o755, 0)?;
                layer.link(dir, &format!("usr/{dir}"))?;
            }
            layer.dir("etc/apk", 0o755, 0)
        }
    }
}

/// The files that scripts would have made from the packages' contents. Returns the system's accounts, if it brings any.
pub(crate) fn after(
    system: System,
    layer: &mut Layer,
    kept: &Kept,
    apt_source: &str,
    scratch: &Path,
) -> Result<Option<Accounts>> {
    match system {
        System::Debian => debian(layer, kept, apt_source).map(Some),
        System::Busybox => busybox(layer, kept, scratch).map(Some),
        System::Alpine => certificates(layer, kept).map(|()| None),
    }
}

fn debian(layer: &mut Layer, kept: &Kept, apt_source: &str) -> Result<Accounts> {
    let links = [
        ("usr/bin/awk", "mawk"),
        ("usr/bin/nawk", "mawk"),
        ("usr/bin/which", "which.debianutils"),
        ("usr/bin/pager", "more"),
        ("etc/mtab", "../proc/self/mounts"),
        ("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ];
    for (path, target) in links {
        layer.link(path, target)?;
    }
    let nsswitch = "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\nnetworks: files\n\
                    protocols: files\nservices: files\nethers: files\nrpc: files\n";
    let dpkg = "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n\
                force-unsafe-io\nforce-confdef\nforce-confold\n";
    let texts = [
        ("etc/timezone", "Etc/UTC\n"),
        (
            "etc/shells",
            "/bin/sh\n/bin/bash\n/usr/bin/bash\n/bin/dash\n/usr/bin/dash\n",
        ),
        ("etc/environment", ""),
        ("etc/hostname", "localhost\n"),
        ("etc/nsswitch.conf", nsswitch),
        ("etc/profile", kept.text(PROFILE)?),
        ("root/.bashrc", kept.text(BASHRC)?),
        ("root/.profile", kept.text(ROOT_PROFILE)?),
        (
            "etc/pam.d/common-auth",
            "auth sufficient pam_rootok.so\nauth required pam_unix.so nullok\n",
        ),
        ("etc/pam.d/common-account", "account required pam_unix.so\n"),
        (
            "etc/pam.d/common-password",
            "password required pam_unix.so obscure yescrypt\n",
        ),
        ("etc/pam.d/common-session", "session required pam_unix.so\n"),
        (
            "etc/pam.d/common-session-noninteractive",
            "session required pam_unix.so\n",
        ),
        ("etc/apt/sources.list.d/debian.sources", apt_source),
        (
            "etc/apt/apt.conf.d/90image",
            "Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n",
        ),
        ("etc/dpkg/dpkg.cfg.d/image", dpkg),
        ("var/lib/dpkg/info/format", "1\n"),
        ("var/lib/dpkg/diversions", ""),
        ("var/lib/dpkg/statoverride", ""),
    ];
    for (path, text) in texts {
        layer.file(path, text, 0o644)?;
    }
    let dirs = "mnt media srv opt home etc/alternatives usr/local/bin usr/local/etc usr/local/include usr/local/lib \
                usr/local/sbin usr/local/share usr/local/src var/cache/apt/archives/partial var/cache/debconf \
                var/lib/apt/lists/partial var/lib/dpkg/alternatives var/lib/dpkg/parts var/lib/dpkg/triggers \
                var/lib/dpkg/updates var/log/apt var/mail var/opt";
    for dir in dirs.split_whitespace() {
        layer.dir(dir, 0o755, 0)?;
    }
    certificates(layer, kept)?;
    let shadowed = |text: &str| text.replace(":*:", ":x:");
    let passwd = shadowed(kept.text(PASSWD)?) + "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n";
    Ok(Accounts {
        passwd,
        group: shadowed(kept.text(GROUP)?),
    })
}

fn busybox(layer: &mut Layer, kept: &Kept, scratch: &Path) -> Result<Accounts> {
    for applet in applets(kept.get(BUSYBOX)?, scratch)? {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    // Scripts and `env` lines name these below /usr/bin.
    for applet in
        "[ awk cut env find head id nc nslookup printf sort tail test tr wc wget which xargs yes"
            .split(' ')
    {
        layer.link(&format!("usr/bin/{applet}"), "../../bin/busybox")?;
    }
    layer.file(
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
        0o644,
    )?;
    layer.file("etc/shells", "/bin/sh\n/bin/ash\n", 0o644)?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                  www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nshadow:x:42:\nwww-data:x:33:\nnobody:x:65534:\nnogroup:x:65534:\n";
    Ok(Accounts {
        passwd: passwd.to_owned(),
        group: group.to_owned(),
    })
}

/// Asks the static busybox, which runs anywhere, for its applets.
fn applets(binary: &[u8], scratch: &Path) -> Result<Vec<String>> {
    let path = scratch.join(format!(".busybox-{}", std::process::id()));
    files::write(&path, binary)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .context("cannot make busybox executable")?;
    let list = process::output_text(Command::new(&path).arg0("busybox").arg("--list"));
    fs::remove_file(&path).ok();
    // Package tools of other systems would only mislead here.
    let unwanted = ["busybox", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "linuxrc"];
    Ok(list?
        .lines()
        .filter(|l| !l.is_empty() && !unwanted.contains(l))
        .map(str::to_owned)
        .collect())
}

/// One bundle of all certificates, where OpenSSL, GnuTLS and Python look for it.
fn certificates(layer: &mut Layer, kept: &Kept) -> Result<()> {
    let bundle: Vec<u8> = kept
        .files
        .iter()
        .filter(|(p, _)| p.starts_with(CERTIFICATES))
        .flat_map(|(_, b)| b.clone())
        .collect();
    layer.file("etc/ssl/certs/ca-certificates.crt", bundle, 0o644)?;
    layer.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")?;
    layer.link("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_get_an_account_and_a_group() {
        let base = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\n".to_owned(),
            group: "root:x:0:\n".to_owned(),
        };
        let user = User {
            name: "redis".to_owned(),
            id: 999,
            home: "/data".to_owned(),
        };
        let all = base.with(&[user]);
        assert!(
            all.passwd
                .ends_with("redis:x:999:999::/data:/usr/sbin/nologin\n")
        );
        assert!(all.group.ends_with("redis:x:999:\n"));
    }
}
