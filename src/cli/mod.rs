//! The subcommands of the `tidegate` command.

pub mod check;
