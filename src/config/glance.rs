//! What a configuration file gives away when it is only looked at, right or wrong: what in it, or
//! behind it, may be a secret. For `tidegate support`, which is wanted most when the file is broken, and whose
//! archive must not hold a secret whatever else went wrong.
//!
//! [`Loaded::print`](super::Loaded::print) never writes a secret, and [`errors`](super::errors) shows none. This is the
//! second line of defence: logs and units come from elsewhere, and people put passwords into strange places.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::errors::{is_secret_key, secret_start};
use super::secret;

/// Shorter texts are no secrets, and are part of too many words.
const SECRET_CHARS_MIN: usize = 4;
/// What stands in every archive would give a secret away by being left out.
const EVERYWHERE: [&str; 8] = ["tidegate", "gateway", "password", "secret", "kafka", "mqtt", "mosquitto", "root"];
/// Tables deeper than this hold nothing of ours.
const DEPTH_MAX: usize = 16;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Glance {
    /// What must not be shown to anybody.
    pub(crate) secrets: Vec<String>,
}

struct Look<'a> {
    base: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    secrets: Vec<String>,
}

impl Glance {
    /// Looks at `text`, which stands in the file `path`.
    pub(crate) fn at(text: &str, path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut look = Look { base, env, secrets: Vec::new() };
        look.table(root.get_ref(), "", 0);
        if !errors.is_empty() {
            // What is not TOML is looked at line by line: everything in quotes behind a word such as `password`.
            for line in text.lines() {
                let behind = secret_start(line).and_then(|at| line.get(at..)).unwrap_or_default();
                behind.split(['"', '\'']).for_each(|part| look.secret(part.trim()));
            }
        }
        let mut secrets = look.secrets;
        // The longest first, so that a part of one does not spoil the whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` with what must not be shown replaced.
    pub(crate) fn without_secrets(&self, text: String) -> String {
        self.secrets.iter().fold(
            text,
            |text, secret| {
                if text.contains(secret) { text.replace(secret, "(secret)") } else { text }
            },
        )
    }
}

impl Look<'_> {
    fn secret(&mut self, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| line.chars().count() >= SECRET_CHARS_MIN);
        self.secrets.extend(lines.filter(|line| !EVERYWHERE.contains(line)).map(str::to_owned));
    }

    fn table(&mut self, table: &DeTable<'_>, path: &str, depth: usize) {
        let text = |key: &str| table.iter().find(|(name, _)| name.get_ref() == key)?.1.get_ref().as_str();
        if let Some(name) = text("file")
            && let Ok((bytes, _)) = secret::from_file(name, self.base, (self.env)("CREDENTIALS_DIRECTORY").as_deref())
        {
            self.secret(&String::from_utf8_lossy(&bytes));
        }
        if let Some(value) = text("env").and_then(self.env) {
            self.secret(&value);
        }
        for (key, value) in table {
            let below = format!("{path}.{}", key.get_ref());
            self.value(value.get_ref(), &below, depth + 1);
        }
    }

    fn value(&mut self, value: &DeValue<'_>, path: &str, depth: usize) {
        let own = path.rsplit('.').next().unwrap_or_default();
        // Where a secret comes from is no secret.
        let is_origin = matches!(own, "file" | "env");
        match value {
            _ if depth > DEPTH_MAX => {}
            DeValue::Table(table) => self.table(table, path, depth),
            DeValue::Array(values) => values.iter().for_each(|value| self.value(value.get_ref(), path, depth + 1)),
            DeValue::String(text) => {
                if !is_origin && is_secret_key(path) {
                    self.secret(text);
                }
                // user:password@host, in whatever stands for an address.
                if let Some((user, _)) = text.rsplit_once('@') {
                    let user = user.rsplit("://").next().unwrap_or(user);
                    self.secret(user);
                    self.secret(user.split_once(':').map_or("", |(_, password)| password));
                }
                let names = text.split("${").skip(1).filter_map(|part| part.split_once('}'));
                for value in names.filter(|(name, _)| is_secret_name(name)).filter_map(|(name, _)| (self.env)(name)) {
                    self.secret(&value);
                }
            }
            _ => {}
        }
    }
}

/// Whether a variable's name says that it holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    is_secret_key(name) || name.split('_').any(|part| part.eq_ignore_ascii_case("key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_a_secret_is_seen_in_files_right_and_wrong() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kafka-password"), "from-a-file\n").unwrap();
        let env = |name: &str| match name {
            "PASSWORD" => Some("from-env".to_owned()),
            "BROKER_TOKEN" => Some("from-token".to_owned()),
            "HOST" => Some("broker.example.net".to_owned()),
            _ => None,
        };
        let text = r#"
            [gateway]
            [mqtt.home]
            url = "mqtt://me:inline-url@${HOST}"
            password = { env = "PASSWORD" }
            client_id = "x-${BROKER_TOKEN}"
            [kafka.sasl]
            mechanism = "PLAIN"
            password = { file = "kafka-password" }
            [kafka]
            passwort = "misspelt"
            [outbox.encryption]
            key = "0123"
        "#;
        let glance = Glance::at(text, &dir.path().join("gateway.toml"), &env);
        let mut seen: Vec<_> = glance.secrets.iter().map(String::as_str).collect();
        seen.sort_unstable();
        assert_eq!(seen, ["0123", "from-a-file", "from-env", "from-token", "inline-url", "me:inline-url", "misspelt"]);
        let shown =
            glance.without_secrets("kafka-password from-env PLAIN mqtt://me:inline-url@broker.example.net".to_owned());
        assert_eq!(shown, "kafka-password (secret) PLAIN mqtt://(secret)@broker.example.net");

        let broken = "[mqtt.home]\npassword = \"in broken TOML\n";
        let glance = Glance::at(broken, Path::new("/gateway.toml"), &env);
        assert!(glance.secrets.contains(&"in broken TOML".to_owned()), "{glance:?}");
    }
}
