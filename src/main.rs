//! The `amberfs` command: hands its arguments to `cli` and its answer to the shell.

fn main() -> std::process::ExitCode {
    amberfs::cli::main()
}
