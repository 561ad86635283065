//! GPUs: why a container that asks for them cannot have them.

use std::{ffi::OsStr, path::Path, sync::Arc};

use graph::error::Error;

/// Made by NVIDIA's kernel driver.
const DRIVER: &str = "/dev/nvidiactl";
/// Programs of NVIDIA's container toolkit: any of them says that it is installed.
const TOOLKIT: [&str; 3] = [
    "nvidia-container-runtime",
    "nvidia-container-cli",
    "nvidia-ctk",
];

/// What the engine's machine has for containers with GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    driver: bool,
    toolkit: bool,
}

impl Machine {
    fn look(path: Option<&OsStr>) -> Self {
        let dirs: Vec<_> = path
            .map(|p| std::env::split_paths(p).collect())
            .unwrap_or_default();
        Self {
            driver: Path::new(DRIVER).exists(),
            toolkit: TOOLKIT
                .iter()
                .any(|program| dirs.iter().any(|dir| dir.join(program).is_file())),
        }
    }

    /// Why there is no GPU for a container.
    fn why(self) -> String {
        let mut missing = Vec::new();
        if !self.driver {
            missing.push(format!("the NVIDIA driver ({DRIVER} is not there)"));
        }
        if !self.toolkit {
            missing.push(format!(
                "the NVIDIA container runtime (neither of {} is in the engine's PATH)",
                TOOLKIT.join(", ")
            ));
        }
        if missing.is_empty() {
            "its machine has the NVIDIA driver and container runtime, but bodkin starts containers without them".to_owned()
        } else {
            format!(
                "its machine lacks {}, and bodkin starts containers without them",
                missing.join(" and ")
            )
        }
    }
}

/// The error for a container that asks for `devices`, all of them when it names none.
pub(super) fn refused(devices: &[Arc<str>]) -> Error {
    told(devices, Machine::look(std::env::var_os("PATH").as_deref()))
}

fn told(devices: &[Arc<str>], machine: Machine) -> Error {
    let asked = if devices.is_empty() {
        "all GPUs".to_owned()
    } else {
        format!("the GPU devices {}", devices.join(", "))
    };
    Error::user(format!(
        "GPU support is not enabled: the container asks for {asked}, and this engine can give it none: {}; \
         leave out `experimentalWithGPU` and `experimentalWithAllGPUs`, or run this step on an engine with GPU support",
        machine.why()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_and_nothing_that_would_not_help() {
        let nothing = Machine {
            driver: false,
            toolkit: false,
        };
        let text = told(&[], nothing).to_string();
        assert!(text.starts_with("GPU support is not enabled: the container asks for all GPUs"));
        assert!(text.contains(
            "lacks the NVIDIA driver (/dev/nvidiactl is not there) and the NVIDIA container runtime"
        ));
        assert!(!text.contains("_EXPERIMENTAL_DAGGER_GPU_SUPPORT"), "{text}");
        let driver = Machine {
            driver: true,
            toolkit: false,
        };
        let text = told(&["GPU-1".into(), "GPU-2".into()], driver).to_string();
        assert!(
            text.contains("the GPU devices GPU-1, GPU-2") && !text.contains("driver (/dev"),
            "{text}"
        );
        let both = Machine {
            driver: true,
            toolkit: true,
        };
        assert!(!told(&[], both).to_string().contains("lacks"));
    }

    #[test]
    fn the_toolkit_is_looked_for_in_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().as_os_str();
        assert!(!Machine::look(Some(path)).toolkit && !Machine::look(None).toolkit);
        std::fs::write(dir.path().join("nvidia-ctk"), "").expect("a file");
        assert!(Machine::look(Some(path)).toolkit);
    }
}
