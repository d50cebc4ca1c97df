//! The process `kuryr-controller`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuryr_controller::main()
}
