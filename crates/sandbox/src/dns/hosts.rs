//! The contents of a container's `/etc/hosts`.

use std::{fmt::Write as _, net::IpAddr};

/// Builds `/etc/hosts`: the loopback names, the container's own name, then each alias in order.
///
/// Names are written as given, so the caller has checked them; a name with a blank or line break is left out.
pub fn hosts_file(own: Option<(IpAddr, &str)>, aliases: &[(IpAddr, String)]) -> Vec<u8> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let aliases = aliases
        .iter()
        .map(|(address, name)| (*address, name.as_str()));
    for (address, name) in own.into_iter().chain(aliases) {
        if !name.is_empty()
            && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
        {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn own_name_and_aliases_follow_the_loopback_names() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let aliases = [
            (address("10.87.0.3"), "db".to_owned()),
            (address("10.87.0.3"), "bad\n1.2.3.4 name".to_owned()),
        ];
        let file = hosts_file(Some((address("10.87.0.2"), "abc")), &aliases);
        expect![[r#"
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::0	ip6-localnet
            ff00::0	ip6-mcastprefix
            ff02::1	ip6-allnodes
            ff02::2	ip6-allrouters
            10.87.0.2	abc
            10.87.0.3	db
        "#]]
        .assert_eq(&String::from_utf8_lossy(&file));
    }
}
