//! The `bits-server` command.

fn main() -> std::process::ExitCode {
    bits_server::cli::main()
}
