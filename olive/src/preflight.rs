//! Checks what can be known before the first job: that the interpreter and the programs that the
//! configuration names can be run. A worker without them would turn every such job into a dead
//! letter.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::Config;

/// Checks them all; blocks for as long as Python takes to start.
///
/// # Errors
/// Which one, why, and what to do.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    if !config.python_modules.is_empty()
        && let Err(why) = python_answers(&config.python)
    {
        let python = config.python.display();
        return Err(format!(
            "olive_python_modules lists modules, but the Python interpreter {python} does not run: \
             {why}; install it, or name another in olive_python"
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (task, argv) in &config.executables {
        if !is_program(&argv[0], &folders) {
            return Err(format!(
                "executables.{task}: there is no program {:?} that may be run",
                argv[0]
            ));
        }
    }
    Ok(())
}

/// Whether the interpreter starts and ends well; why not.
pub(crate) fn python_answers(python: &Path) -> Result<(), String> {
    let mut command = Command::new(python);
    command.args(["-c", "pass"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A name with a slash is a path; any other is looked for in `folders`, as `exec` does.
fn is_program(name: &str, folders: &[PathBuf]) -> bool {
    let may_run = |path: &Path| {
        path.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return may_run(Path::new(name));
    }
    folders.iter().any(|folder| may_run(&folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(python: &str, argv: &[&str]) -> Result<(), String> {
        let argv = argv.iter().map(|part| (*part).to_owned()).collect();
        check(&Config {
            python: python.into(),
            python_modules: vec!["m".into()],
            executables: [("a.task".to_owned(), argv)].into(),
            ..Config::default()
        })
    }

    #[test]
    fn what_does_not_run_is_named() {
        // `true` takes any arguments and ends well, which is all that is asked of an interpreter.
        assert_eq!(with("true", &["true"]), Ok(()));
        assert_eq!(with("true", &["/bin/sh", "-c", "exit"]), Ok(()));
        assert!(
            with("/no/python", &["true"])
                .unwrap_err()
                .contains("/no/python")
        );
        assert!(
            with("false", &["true"])
                .unwrap_err()
                .contains("exit status: 1")
        );
        assert!(
            with("true", &["no-such-program"])
                .unwrap_err()
                .contains("a.task")
        );
        assert!(with("true", &["/etc/passwd"]).is_err(), "not executable");
        assert!(with("true", &["/tmp"]).is_err(), "a folder");
    }
}
