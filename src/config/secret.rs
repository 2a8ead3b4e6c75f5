//! Secrets come from files (systemd credentials best of all) or from the environment, never from the configuration
//! itself, which is copied, printed and put under version control. A secret that cannot be had is an error at load.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::encryption::is_key;
use super::field::{Field, clip_path};
use super::section::Section;
use super::units::is_variable_name;
use super::{Purpose, Secret};

/// A secret's file is not larger than this, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Stands for a secret where nobody connects to anything.
const NOT_LOOKED_FOR: &str = "not looked for";
pub(super) const HOW: &str =
    "write { file = \"NAME\" } (a systemd credential or a file beside this one) or { env = \"NAME\" }";

/// Where a secret came from, as the file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `{ file = "…" }`
    File(String),
    /// `{ env = "…" }`
    Env(String),
}

/// Reads the secret of `key`, if the key is there.
pub(super) fn optional(section: &Section<'_>, key: &'static str) -> Option<Secret> {
    section.get(key).and_then(|field| secret(&field))
}

/// Reads the secret of `key`.
pub(super) fn required(section: &Section<'_>, key: &'static str) -> Option<Secret> {
    section.require(key, "a secret").and_then(|field| secret(&field))
}

fn secret(field: &Field<'_>) -> Option<Secret> {
    found(field, Secret::new(NOT_LOOKED_FOR.to_owned()), |bytes, place| {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("expected text: {place} is not UTF-8"))?;
        usable(text).map(Secret::new)
    })
}

/// What `read` makes of the bytes that a table says where to find; it is told the place, for its messages. Gives
/// `not_looked_for` where nobody needs it.
pub(super) fn found<T>(
    field: &Field<'_>,
    not_looked_for: T,
    read: impl FnOnce(&[u8], &str) -> Result<T, String>,
) -> Option<T> {
    if !field.is_table() {
        let message = if field.is_text() {
            "expected where to find the secret, found the secret itself".to_owned()
        } else {
            format!("expected where to find the secret, found {}", field.found())
        };
        field.problem(message, Some(HOW.to_owned()));
        return None;
    }
    let section = field.section();
    let cx = section.cx;
    let file = section.get("file");
    let env = section.get("env");
    section.finish();
    let skipped = match cx.purpose {
        Purpose::Run | Purpose::Show => false,
        Purpose::Replay => true,
        Purpose::Outbox => !field.path.starts_with("outbox."),
    };
    // A key where its name should be is not to be shown.
    let hides =
        |name: &str| is_key(name).then(|| "the name of what holds the secret, not the secret itself".to_owned());
    let (origin, found, at) = match (&file, &env) {
        (Some(at), None) => {
            let name = at.checked(|name| match hides(name) {
                Some(expected) => Err(expected),
                None if name.is_empty() || name.contains('\0') => Err("a file".to_owned()),
                None => Ok(name.to_owned()),
            })?;
            let found = match skipped {
                true => Ok(None),
                false => from_file(&name, cx.base, (cx.env)("CREDENTIALS_DIRECTORY").as_deref()).map(Some),
            };
            (Origin::File(name), found, at)
        }
        (None, Some(at)) => {
            let name = at.checked(|name| match (hides(name), is_variable_name(name)) {
                (Some(expected), _) => Err(expected),
                (None, true) => Ok(name.to_owned()),
                (None, false) => Err("the name of an environment variable".to_owned()),
            })?;
            let found = match (skipped, (cx.env)(&name)) {
                (true, _) => Ok(None),
                (_, Some(text)) => Ok(Some((text.into_bytes(), format!("the environment variable `{name}`")))),
                (_, None) => Err(format!("the environment variable `{name}` is not set")),
            };
            (Origin::Env(name), found, at)
        }
        _ => {
            field.problem("expected one of `file` and `env`".to_owned(), Some(HOW.to_owned()));
            return None;
        }
    };
    let found = found.and_then(|found| match found {
        Some((bytes, _)) if bytes.len() as u64 > SECRET_BYTES_MAX => {
            Err("expected a secret of at most 64 KiB".to_owned())
        }
        Some((bytes, place)) => read(&bytes, &place),
        None => Ok(not_looked_for),
    });
    match found {
        Ok(secret) => {
            cx.origins.borrow_mut().insert(field.path.clone(), origin);
            Some(secret)
        }
        Err(message) => {
            at.problem(message, None);
            None
        }
    }
}

/// The content of a secret's file, and which that is. A name without `/` is a credential of systemd's, or a file beside
/// the configuration.
pub(super) fn from_file(name: &str, base: &Path, credentials: Option<&str>) -> Result<(Vec<u8>, String), String> {
    let beside = base.join(name);
    let credential = credentials.filter(|_| !name.contains('/')).map(|directory| Path::new(directory).join(name));
    let candidates: Vec<&PathBuf> = credential.iter().chain([&beside]).collect();
    for path in &candidates {
        match read(path) {
            Ok(bytes) => return Ok((bytes, clip_path(path))),
            // Only a credential that does not exist lets the next place count: one that cannot be read is meant.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("expected a readable file: {}: {error}", clip_path(path))),
        }
    }
    let looked: Vec<String> = candidates.iter().map(|path| clip_path(path)).collect();
    Err(format!("expected a readable file: {} does not exist", looked.join(" (nor "))
        + if looked.len() > 1 { ")" } else { "" })
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The secret without the line end that editors leave behind it.
fn usable(text: &str) -> Result<String, String> {
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        Err("expected a secret, found nothing".to_owned())
    } else if secret.contains(['\r', '\n', '\0']) {
        Err("expected one line, found several".to_owned())
    } else {
        Ok(secret.to_owned())
    }
}
