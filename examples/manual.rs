//! Writes the man pages and the shell completions that the packages carry, made of what the command line takes:
//! `cargo run --example manual -- DIR`. It is an example so that none of it is in the gateway's binary.

use std::fs;
use std::io::{Error, Result};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use tidegate::cli::Cli;

fn main() -> Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or_else(|| Error::other("where to? usage: cargo run --example manual -- DIR"))?;
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;

    // One page for each command and each of its subcommands: tidegate.1, tidegate-outbox.1, tidegate-outbox-show.1, ...
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "tidegate", &completions)?;
    }
    Ok(())
}
