//! The `bits-server` command.

/// Returns memory to the system when a burst of connections is over, which the system's allocator
/// does not do well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    bits_server::cli::main()
}
