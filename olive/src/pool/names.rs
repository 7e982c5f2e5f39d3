//! Which Python functions a producer may name: decided here, before any Python runs.
//!
//! The rule has two halves. This one is pure: the module must be listed by the operator, and the
//! name must be public and stand directly in it. The other half, whether the module really defines such a
//! function (and has not merely imported it), can only be seen inside Python: `shim.py`.

/// A task name split into a listed module and a public name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PythonName<'a> {
    /// The module, exactly as listed.
    pub module: &'a str,
    /// The function's name in it.
    pub function: &'a str,
}

/// Resolves a task name against the Python modules that the operator listed.
///
/// # Errors
/// Why no producer may run `func`, in a sentence that ends in the dead-letter queue.
pub fn python_name<'a>(func: &'a str, modules: &[String]) -> Result<PythonName<'a>, String> {
    let Some((module, function)) = func.rsplit_once('.') else {
        return Err(format!("{func:?} names no module"));
    };
    if !modules.iter().any(|listed| listed == module) {
        return Err(format!("{module:?} is not a listed Python module"));
    }
    if function.starts_with('_') {
        return Err(format!("{function:?} is private to {module}"));
    }
    if !is_identifier(function) {
        return Err(format!("{function:?} is not a Python name"));
    }
    Ok(PythonName { module, function })
}

/// Python's identifiers, a little widened: letters, digits and underscores of any script.
fn is_identifier(name: &str) -> bool {
    let starts_well = name
        .chars()
        .next()
        .is_some_and(|first| first.is_alphabetic());
    starts_well && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(func: &str) -> Result<PythonName<'_>, String> {
        let listed = ["myapp.tasks".to_string(), "flat".to_string()];
        python_name(func, &listed)
    }

    #[test]
    fn a_public_name_in_a_listed_module_is_found() {
        let found = PythonName {
            module: "myapp.tasks",
            function: "add",
        };
        assert_eq!(resolve("myapp.tasks.add"), Ok(found));
        assert_eq!(resolve("flat.größe").unwrap().function, "größe");
    }

    #[test]
    fn everything_else_is_unknown() {
        for func in [
            "",
            ".",
            "add",
            "flat",
            "flat.",
            ".add",
            "os.system",
            "builtins.exec",
            "myapp.tasks",
            "myapp.add",
            "myapp.tasks.os.system",
            "myapp.tasks.Class.method",
            "myapp.tasks._private",
            "myapp.tasks.__import__",
            "myapp.tasks.1st",
            "myapp.tasks.a b",
            "myapp.tasks.f()",
            "myapp.tasks. f",
            "myapp..tasks.f",
            " flat.f",
            "Flat.f",
            "/bin/sh",
            "../flat.f",
        ] {
            assert!(resolve(func).is_err(), "{func:?} must not resolve");
        }
    }
}
