//! The `olive` binary.

fn main() -> std::process::ExitCode {
    olive::cli::main()
}
