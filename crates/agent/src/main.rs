//! The process `kuryr-daemon`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuryr_agent::main()
}
