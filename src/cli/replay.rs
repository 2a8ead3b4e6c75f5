//! `tidegate replay`: a recording through the rules of a configuration. What would have been sent goes to stdout, what is
//! wrong with the recording and the summary to stderr.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::fail;
use crate::clock;
use crate::config::{Loaded, Purpose};
use crate::print::Format;
use crate::reading::{Batch, Stamp};
use crate::replay::{LINE_BYTES_MAX, Parsed, Parser, Replay};

/// Exit codes: a configuration that is wrong; a recording that could not be read to its end, or not in every line.
const WRONG_CONFIG: u8 = 2;
const INCOMPLETE: u8 = 1;
/// Lines that are no records: so many are told of, the rest is counted.
const REFUSED_SHOWN_MAX: u64 = 20;
/// A progress bar is for what takes longer than this, and says something new so often.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Output is gathered up to this, unless it is to come when it is due.
const OUTPUT_BYTES: usize = 64 << 10;

/// How to replay.
#[derive(Debug)]
pub struct Options {
    /// How to show what would be sent.
    pub format: Option<Format>,
    /// How many times faster than it was recorded; `None` is as fast as it goes.
    pub speed: Option<f64>,
    /// Whether to close what is open at the end.
    pub close: bool,
}

/// A speed on the command line.
///
/// # Errors
/// When it is not a number above 0.
pub fn speed(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| factor.is_finite() && *factor >= 0.001);
    factor.ok_or_else(|| "expected a number of at least 0.001, such as 1 or 60".to_owned())
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
enum Stop {
    /// Whoever read the output has gone, which is no failure.
    #[error("nobody reads the output")]
    Closed,
    #[error("the recording cannot be read: {0}")]
    Read(io::Error),
    #[error("what would be sent cannot be written: {0}")]
    Write(io::Error),
}

/// Replays the recording `file` (`-` is stdin) with the configuration at `config`.
#[must_use]
pub fn run(file: &Path, config: &Path, options: &Options) -> ExitCode {
    let loaded = match Loaded::load(config, Purpose::Replay) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            return ExitCode::from(WRONG_CONFIG);
        }
    };
    let rules = &loaded.config.rules;
    if rules.filters.is_empty() && rules.windows.is_empty() {
        let _ = writeln!(io::stderr(), "{}: no [[filter]] and no [[window]]: nothing will change", config.display());
    }
    let (name, input, length) = match open(file) {
        Ok(opened) => opened,
        Err(error) => return fail(&format!("{}: expected a readable recording: {error}", file.display())),
    };
    let table = options.format.map_or_else(|| io::stdout().is_terminal(), |format| format == Format::Table);
    let mut player = Player {
        name,
        replay: Replay::new(&loaded.config, table),
        output: Output { gathered: Vec::new(), at_once: options.speed.is_some() || io::stdout().is_terminal() },
        pace: options.speed.map(|speed| Pace { speed, began: None }),
        progress: Progress::new(length),
        refused: 0,
    };
    let played = player.play(input);
    player.end(played, options.close)
}

/// The recording, its name in messages, and its length if it has one.
fn open(file: &Path) -> io::Result<(String, Box<dyn Read>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok(("stdin".to_owned(), Box::new(io::stdin()), None));
    }
    let opened = File::open(file)?;
    let about = opened.metadata()?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((file.display().to_string(), Box::new(opened), about.is_file().then_some(about.len())))
}

struct Player {
    name: String,
    replay: Replay,
    output: Output,
    pace: Option<Pace>,
    progress: Progress,
    refused: u64,
}

impl Player {
    fn play(&mut self, input: Box<dyn Read>) -> Result<(), Stop> {
        let mut input = BufReader::with_capacity(OUTPUT_BYTES, input);
        let (mut parser, mut line, mut batch) = (Parser::default(), Vec::new(), Batch::default());
        let mut number = 0_u64;
        loop {
            let read = read_line(&mut input, &mut line).map_err(Stop::Read)?;
            if read == 0 {
                break;
            }
            number += 1;
            self.progress.advance(read);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let parsed = if line.len() > LINE_BYTES_MAX {
                Err(format!("expected a line of at most {LINE_BYTES_MAX} bytes, found {read}"))
            } else {
                parser.read(&line, &mut batch)
            };
            match parsed {
                Ok(Parsed::Record(at)) => {
                    if self.replay.is_due(at) {
                        self.apply()?;
                    }
                    self.replay.push(at, &mut batch);
                }
                Ok(Parsed::Other(kind)) => *self.replay.summary_mut().others.entry(kind).or_default() += 1,
                Err(reason) => self.refuse(number, &reason),
            }
        }
        let summary = self.replay.summary_mut();
        (summary.out_of_order, summary.of_other_gateways) = (parser.out_of_order(), parser.of_other_gateways());
        self.apply()
    }

    fn refuse(&mut self, line: u64, reason: &str) {
        self.refused += 1;
        let told = match self.refused {
            ..=REFUSED_SHOWN_MAX => format!("{}:{line}: {reason}", self.name),
            refused if refused == REFUSED_SHOWN_MAX + 1 => format!("{}: the rest is only counted", self.name),
            _ => return,
        };
        self.progress.say(&told);
    }

    /// Lets time pass until what is pending was received, and applies the rules to it.
    fn apply(&mut self) -> Result<(), Stop> {
        let Some(at) = self.replay.pending() else { return Ok(()) };
        while let Some(tick) = self.replay.next_tick(at) {
            self.wait(tick);
            self.replay.tick(tick);
            self.output.add(self.replay.take_output())?;
        }
        self.wait(at);
        self.replay.apply();
        self.output.add(self.replay.take_output())
    }

    fn wait(&mut self, until: Stamp) {
        if let Some(pace) = &mut self.pace {
            pace.wait(until);
        }
    }

    /// Says what came of it.
    fn end(mut self, played: Result<(), Stop>, close: bool) -> ExitCode {
        self.replay.summary_mut().refused = self.refused;
        let whole = played.is_ok();
        let (summary, rest) = self.replay.finish(close && whole);
        let written = played.and_then(|()| self.output.add(rest)).and_then(|()| self.output.flush());
        self.progress.finish();
        match written {
            Err(Stop::Closed) => return ExitCode::SUCCESS,
            Err(error) => drop(fail(&format!("{}: {error}", self.name))),
            Ok(()) if self.refused == 0 => {
                let _ = write!(io::stderr(), "{summary}");
                return ExitCode::SUCCESS;
            }
            Ok(()) => {}
        }
        let _ = write!(io::stderr(), "{summary}");
        ExitCode::from(INCOMPLETE)
    }
}

/// Reads a line into `line`, of one that is too long only its beginning, and gives how many bytes it had; 0 at the end.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let mut read = input.take(limit).read_until(b'\n', line)? as u64;
    if read == limit && line.last() != Some(&b'\n') {
        read += input.skip_until(b'\n')? as u64;
    }
    Ok(read)
}

struct Output {
    gathered: Vec<u8>,
    at_once: bool,
}

impl Output {
    fn add(&mut self, bytes: Vec<u8>) -> Result<(), Stop> {
        if self.gathered.is_empty() {
            self.gathered = bytes;
        } else {
            self.gathered.extend_from_slice(&bytes);
        }
        if self.at_once || self.gathered.len() >= OUTPUT_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.gathered).and_then(|()| stdout.flush());
        self.gathered.clear();
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Closed,
            _ => Stop::Write(error),
        })
    }
}

/// Lets the time of the recording pass.
struct Pace {
    speed: f64,
    /// When it began, and the recording's time then.
    began: Option<(Instant, u64)>,
}

impl Pace {
    fn wait(&mut self, until: Stamp) {
        let (began, first_ms) = *self.began.get_or_insert_with(|| (clock::instant(), until.monotonic_ms));
        let due_ms = until.monotonic_ms.saturating_sub(first_ms) as f64 / self.speed;
        // More than a duration can hold is for ever to whoever waits.
        let due = Duration::try_from_secs_f64(due_ms / 1_000.0).unwrap_or(Duration::MAX);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

/// How far it has come, for whoever waits at a terminal that shows nothing else.
struct Progress {
    bar: ProgressBar,
    began: Instant,
    drawn: Instant,
    read: u64,
    wanted: bool,
}

impl Progress {
    fn new(length: Option<u64>) -> Self {
        let now = clock::instant();
        let wanted = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self { bar: bar(length), began: now, drawn: now, read: 0, wanted }
    }

    fn advance(&mut self, bytes: u64) {
        self.read += bytes;
        // Asking for the time costs more than a short line.
        if !self.wanted || self.read / 65_536 == (self.read - bytes) / 65_536 {
            return;
        }
        let now = clock::instant();
        if now - self.drawn < PROGRESS_EVERY {
            return;
        }
        self.drawn = now;
        // Hidden until then, it knows the speed when it is shown.
        if self.bar.is_hidden() && now - self.began >= PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.read);
    }

    /// A line for a person, above the bar if there is one.
    fn say(&self, line: &str) {
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {percent:>3} %  {bytes} of {total_bytes}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::hidden());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
