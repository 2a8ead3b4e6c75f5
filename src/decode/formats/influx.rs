//! The line protocol of InfluxDB, as Telegraf writes it: `measurement,tag=word field=1i,other="text" 1777896000000000000`.
//!
//! What comes out: `lines`, each with `measurement`, `tags` by name, `tag_values` (all of them, with `-` between), `fields` by
//! name, and `time`, which is in nanoseconds since 1970 unless whoever writes it chose otherwise.

use super::super::doc::{Doc, Leaf};
use super::{Refusal, fits, malformed};

/// Takes lines apart, and gives what is wrong with the first that is none. If all are wrong, nothing comes out.
pub(in crate::decode) fn influx(text: &str, doc: &mut Doc) -> Result<Option<String>, Refusal> {
    doc.begin(false);
    let lines = doc.begin_list("lines");
    let mut cursor = Cursor { text, at: 0 };
    let (mut good, mut wrong) = (0, None);
    while cursor.next_line() {
        let begin = cursor.at;
        match Line::read(&mut cursor) {
            Ok(line) => {
                line.put(doc);
                good += 1;
            }
            Err(expected) => {
                let at = cursor.at;
                wrong.get_or_insert_with(|| format!("byte {at}: expected {expected}"));
                cursor.at = text[begin..].find('\n').map_or(text.len(), |end| begin + end);
            }
        }
    }
    doc.end(lines);
    doc.end(0);
    fits(doc)?;
    match wrong {
        Some(wrong) if good == 0 => malformed(wrong),
        _ if good == 0 => Err(Refusal::Ignored),
        wrong => Ok(wrong),
    }
}

/// One point.
struct Line<'t> {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: Vec<(String, Field<'t>)>,
    time: Option<i128>,
}

enum Field<'t> {
    Flag(bool),
    Number(f64),
    Whole(i128),
    Text(String),
    /// Not what the protocol knows; the rules may know better.
    Word(&'t str),
}

impl<'t> Line<'t> {
    fn read(cursor: &mut Cursor<'t>) -> Result<Self, &'static str> {
        let measurement = cursor.name(b", ").ok_or("a measurement")?;
        let mut tags = Vec::new();
        while cursor.take(b',') {
            let name = cursor.name(b"=").ok_or("a tag's name")?;
            if !cursor.take(b'=') {
                return Err("`=` behind a tag's name");
            }
            tags.push((name, cursor.name(b", ").ok_or("a tag's value")?));
        }
        if !cursor.take(b' ') {
            return Err("a space before the fields");
        }
        cursor.skip_spaces();
        let mut fields = Vec::new();
        loop {
            let name = cursor.name(b"=").ok_or("a field's name")?;
            if !cursor.take(b'=') {
                return Err("`=` behind a field's name");
            }
            fields.push((name, cursor.field()?));
            if !cursor.take(b',') {
                break;
            }
        }
        cursor.skip_spaces();
        let time = match cursor.word(b" ") {
            "" => None,
            digits => Some(digits.parse::<i64>().map_err(|_| "a whole number as time")?.into()),
        };
        cursor.skip_spaces();
        if cursor.peek().is_some_and(|byte| byte != b'\n') {
            return Err("nothing behind the time");
        }
        Ok(Self { measurement, tags, fields, time })
    }

    fn put(&self, doc: &mut Doc) {
        let line = doc.begin_object("");
        doc.put("measurement", Leaf::Text(&self.measurement));
        let tags = doc.begin_object("tags");
        for (name, value) in &self.tags {
            doc.put(name, Leaf::Text(value));
        }
        doc.end(tags);
        if !self.tags.is_empty() {
            let values: Vec<&str> = self.tags.iter().map(|(_, value)| value.as_str()).collect();
            doc.put("tag_values", Leaf::Text(&values.join("-")));
        }
        let fields = doc.begin_object("fields");
        for (name, value) in &self.fields {
            let value = match value {
                Field::Flag(flag) => Leaf::Flag(*flag),
                Field::Number(number) => Leaf::Number(*number),
                Field::Whole(number) => Leaf::Whole(*number),
                Field::Text(text) => Leaf::Text(text),
                Field::Word(word) => Leaf::Text(word),
            };
            doc.put(name, value);
        }
        doc.end(fields);
        if let Some(time) = self.time {
            doc.put("time", Leaf::Whole(time));
        }
        doc.end(line);
    }
}

struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Goes to the beginning of the next line that is neither blank nor a comment; false if there is none.
    fn next_line(&mut self) -> bool {
        loop {
            self.skip_spaces();
            match self.peek() {
                None => return false,
                Some(b'\n') => self.at += 1,
                Some(b'#') => {
                    self.word(b"");
                }
                Some(_) => return true,
            }
        }
    }

    /// All up to one of these bytes or the end of the line.
    fn word(&mut self, ends: &[u8]) -> &'t str {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| byte == b'\n' || ends.contains(&byte)).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        word.trim_end_matches('\r')
    }

    /// A name, which is not empty, up to one of these bytes. A backslash takes their meaning from `,`, `=` and a space.
    fn name(&mut self, ends: &[u8]) -> Option<String> {
        let mut name = Vec::new();
        while let Some(byte) = self.peek() {
            let next = self.text.as_bytes().get(self.at + 1).copied();
            match (byte, next) {
                (b'\n', _) => break,
                (b'\\', Some(meant @ (b',' | b'=' | b' '))) => {
                    name.push(meant);
                    self.at += 1;
                }
                _ if ends.contains(&byte) => break,
                _ => name.push(byte),
            }
            self.at += 1;
        }
        // Only ASCII was cut out of what was UTF-8.
        String::from_utf8(name).ok().filter(|name| !name.is_empty())
    }

    fn field(&mut self) -> Result<Field<'t>, &'static str> {
        if self.take(b'"') {
            return self.quoted();
        }
        let word = self.word(b", ");
        if word.is_empty() {
            return Err("a field's value");
        }
        let whole = word.strip_suffix(['i', 'u']).and_then(|digits| digits.parse::<i128>().ok());
        Ok(match (word, whole) {
            ("t" | "T" | "true" | "True" | "TRUE", _) => Field::Flag(true),
            ("f" | "F" | "false" | "False" | "FALSE", _) => Field::Flag(false),
            (_, Some(number)) => Field::Whole(number),
            _ => match word.parse::<f64>() {
                Ok(number) if number.is_finite() => Field::Number(number),
                _ => Field::Word(word),
            },
        })
    }

    /// A text up to its closing quotation mark, line feeds included.
    fn quoted(&mut self) -> Result<Field<'t>, &'static str> {
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            let next = self.text.as_bytes().get(self.at + 1).copied();
            self.at += 1;
            match (byte, next) {
                (b'"', _) => return String::from_utf8(text).map(Field::Text).map_err(|_| "UTF-8"),
                (b'\\', Some(meant @ (b'"' | b'\\'))) => {
                    text.push(meant);
                    self.at += 1;
                }
                _ => text.push(byte),
            }
        }
        Err("the quotation mark that ends a text")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::doc::Kind;

    /// What is in a document, as paths and values.
    fn read(text: &str) -> Result<(Vec<String>, Option<String>), Refusal> {
        let mut doc = Doc::default();
        let wrong = influx(text, &mut doc)?;
        let mut found = Vec::new();
        collect(&doc, 0, "", &mut found);
        Ok((found, wrong))
    }

    fn collect(doc: &Doc, parent: usize, path: &str, out: &mut Vec<String>) {
        for (position, (index, node)) in doc.children(parent).enumerate() {
            let key = match doc.kind(parent) {
                Some(Kind::List) => position.to_string(),
                _ => doc.key(node).to_owned(),
            };
            let path = if path.is_empty() { key } else { format!("{path}/{key}") };
            match node.kind {
                Kind::Object | Kind::List => collect(doc, index, &path, out),
                Kind::Text(span) | Kind::Digits(span) => out.push(format!("{path}={}", doc.text(span))),
                Kind::Number(number) => out.push(format!("{path}={number}")),
                Kind::Flag(flag) => out.push(format!("{path}={flag}")),
                Kind::Null => {}
            }
        }
    }

    #[test]
    fn a_line_is_taken_apart() {
        let (found, wrong) =
            read("weather,site=pier,side=north t=-1.5,n=3i,u=7u,on=T,s=\"a, \\\"b\\\"\\nc\" 1777896000000000000")
                .unwrap();
        assert_eq!(wrong, None);
        assert_eq!(
            found,
            [
                "lines/0/measurement=weather",
                "lines/0/tags/site=pier",
                "lines/0/tags/side=north",
                "lines/0/tag_values=pier-north",
                "lines/0/fields/t=-1.5",
                "lines/0/fields/n=3",
                "lines/0/fields/u=7",
                "lines/0/fields/on=true",
                "lines/0/fields/s=a, \"b\"\\nc",
                "lines/0/time=1777896000000000000",
            ]
        );
    }

    #[test]
    fn names_may_have_marks_in_them() {
        let (found, _) = read("my\\ house,a\\,b=c\\=d\\ é,p=C:\\x f\\ 1=1e3\r\n").unwrap();
        let expected =
            ["measurement=my house", "tags/a,b=c=d é", "tags/p=C:\\x", "tag_values=c=d é-C:\\x", "fields/f 1=1000"];
        assert_eq!(found, expected.map(|one| format!("lines/0/{one}")));
    }

    #[test]
    fn a_wrong_line_costs_only_itself() {
        let (found, wrong) = read("# made by hand\n\na x=1\nb x\nc,=1 x=1\nd x=\"open\ne x=nan 5\n").unwrap();
        assert_eq!(wrong.as_deref(), Some("byte 25: expected `=` behind a field's name"));
        let names = ["0/measurement=a", "0/fields/x=1", "1/measurement=e", "1/fields/x=nan", "1/time=5"];
        assert_eq!(found, names.map(|one| format!("lines/{one}")));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for text in
            ["{\"a\":1}", "a", "a ", "a b", "a b=", "a,b c=1", "a,b= c=1", "a b=1 x", "a b=1 5 6", "a b=\"", "é"]
        {
            assert!(matches!(read(text), Err(Refusal::Wrong(..))), "{text}");
        }
        assert_eq!(read("# nothing\n"), Err(Refusal::Ignored));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "([a, =\\\\\"#\r\n1ié-]|.){0,200}") {
            let _ = read(&text);
        }
    }
}
