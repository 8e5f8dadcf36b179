//! A dump of PostgreSQL, as `pg_dump` writes it in plain text.
//!
//! Where a statement ends is decided as psql does (psqlscan.l): by quotes, dollar quotes, comments, parentheses,
//! and `BEGIN … END` in functions. What begins with a backslash is for psql alone, which may run programs for
//! it: it is refused, but for `\restrict` and `\unrestrict`, which `pg_dump` puts around everything against
//! just that, and which mean nothing here.

use std::io::Read;

use super::{MOST_BYTES, Text, is_of_word, text, too_large, unclosed};
use crate::backup::BackupError;

/// Bytes of rows that are handed on at once.
const CHUNK: usize = 256 << 10;

/// A dump that is read.
pub struct Script<R> {
    text: Text<R>,
    statement: Vec<u8>,
    /// What psql counts in a statement.
    words: Words,
    parentheses: u32,
    /// The rows that are read had their end.
    are_rows_over: bool,
}

/// A statement, without what ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// One like any other.
    Plain(String),
    /// `COPY … FROM stdin`: rows follow, and are to be read.
    Copy(String),
}

/// The words of a statement, as far as they say whether it is a function with a body of statements.
#[derive(Default)]
struct Words {
    count: usize,
    /// The first letters of the first words.
    first: [u8; 4],
    /// `BEGIN`s without their `END`.
    begun: u32,
}

impl Words {
    fn see(&mut self, word: &[u8], is_outside: bool) {
        let word = word.to_ascii_lowercase();
        let known: [&[u8]; 5] = [b"create", b"function", b"procedure", b"or", b"replace"];
        if known.contains(&&*word)
            && let Some(slot) = self.first.get_mut(self.count)
        {
            *slot = word[0];
        }
        self.count += 1;
        let is_function =
            matches!(self.first, [b'c', b'f' | b'p', ..] | [b'c', b'o', b'r', b'f' | b'p']);
        if !is_function || !is_outside {
            return;
        }
        match &*word {
            b"begin" => self.begun += 1,
            b"case" if self.begun > 0 => self.begun += 1,
            b"end" => self.begun = self.begun.saturating_sub(1),
            _ => {}
        }
    }
}

impl<R: Read> Script<R> {
    /// A dump.
    pub fn new(input: R) -> Self {
        Self {
            text: Text::new(input),
            statement: Vec::new(),
            words: Words::default(),
            parentheses: 0,
            are_rows_over: false,
        }
    }

    /// The next statement; `None` at the end.
    ///
    /// # Errors
    /// If there is something that is none, or the dump cannot be read.
    pub fn statement(&mut self) -> Result<Option<Statement>, BackupError> {
        (self.words, self.parentheses) = (Words::default(), 0);
        self.statement.clear();
        while let Some(byte) = self.text.next()? {
            if self.statement.len() >= MOST_BYTES {
                return Err(too_large());
            }
            match byte {
                b';' if self.parentheses == 0 && self.words.begun == 0 => {
                    if !self.statement.is_empty() {
                        return self.finished().map(Some);
                    }
                }
                b'\\' => self.backslash()?,
                byte if byte.is_ascii_whitespace() && self.statement.is_empty() => {}
                byte => self.part(byte)?,
            }
        }
        let rest = std::mem::take(&mut self.statement);
        if rest.is_empty() { Ok(None) } else { Ok(Some(Statement::Plain(text(rest)?))) }
    }

    fn finished(&mut self) -> Result<Statement, BackupError> {
        let statement = text(std::mem::take(&mut self.statement))?;
        const END: &str = " from stdin";
        let is_like = |part: Option<&str>, word| part.is_some_and(|s| s.eq_ignore_ascii_case(word));
        let end = statement.len().checked_sub(END.len()).and_then(|at| statement.get(at..));
        if is_like(statement.get(..5), "copy ") && is_like(end, END) {
            // Rows begin on the next line.
            self.text.line()?;
            return Ok(Statement::Copy(statement));
        }
        Ok(Statement::Plain(statement))
    }

    fn part(&mut self, byte: u8) -> Result<(), BackupError> {
        match byte {
            b'-' if self.text.peek()? == Some(b'-') => {
                self.text.line()?;
                self.blank();
            }
            b'/' if self.text.peek()? == Some(b'*') => self.comment()?,
            b'\'' => {
                let has_escapes = matches!(*self.statement, [.., b'e' | b'E'])
                    && !self.statement.iter().rev().nth(1).is_some_and(|byte| is_of_word(*byte));
                self.quoted(b'\'', has_escapes)?;
            }
            b'"' => self.quoted(b'"', false)?,
            b'$' => self.dollar()?,
            byte if is_of_word(byte) => self.word(byte)?,
            byte => {
                match byte {
                    b'(' => self.parentheses += 1,
                    b')' => self.parentheses = self.parentheses.saturating_sub(1),
                    _ => {}
                }
                self.statement.push(byte);
            }
        }
        Ok(())
    }

    /// Takes what was looked at into the statement.
    fn put(&mut self, byte: u8) -> Result<(), BackupError> {
        if self.statement.len() >= MOST_BYTES {
            return Err(too_large());
        }
        self.statement.push(byte);
        self.text.next().map(drop)
    }

    /// What stands in a comment's place.
    fn blank(&mut self) {
        if !self.statement.is_empty() {
            self.statement.push(b'\n');
        }
    }

    fn word(&mut self, first: u8) -> Result<(), BackupError> {
        let start = self.statement.len();
        self.statement.push(first);
        while let Some(byte) = self.text.peek()?.filter(|byte| is_of_word(*byte)) {
            self.put(byte)?;
        }
        if !first.is_ascii_digit() {
            self.words.see(&self.statement[start..], self.parentheses == 0);
        }
        Ok(())
    }

    fn quoted(&mut self, quote: u8, has_escapes: bool) -> Result<(), BackupError> {
        self.statement.push(quote);
        self.text.quoted(&mut self.statement, quote, has_escapes)
    }

    /// `$tag$ … $tag$`, or a parameter such as `$1`.
    fn dollar(&mut self) -> Result<(), BackupError> {
        let start = self.statement.len();
        self.statement.push(b'$');
        while let Some(byte) = self.text.peek()?.filter(|byte| is_of_word(*byte) && *byte != b'$') {
            self.put(byte)?;
        }
        let is_tag = self.statement.get(start + 1).is_none_or(|byte| !byte.is_ascii_digit())
            && self.text.peek()? == Some(b'$');
        if !is_tag {
            return Ok(());
        }
        self.text.next()?;
        self.statement.push(b'$');
        let tag = self.statement[start..].to_vec();
        let inside = self.statement.len();
        loop {
            let byte = self.text.next()?.ok_or_else(unclosed)?;
            self.statement.push(byte);
            if self.statement.len() >= MOST_BYTES {
                return Err(too_large());
            }
            if byte == b'$' && self.statement[inside..].ends_with(&tag) {
                return Ok(());
            }
        }
    }

    /// Left out; they may stand in each other.
    fn comment(&mut self) -> Result<(), BackupError> {
        self.text.next()?;
        let mut depth = 1;
        let mut before = 0;
        while depth > 0 {
            let byte = self.text.next()?.ok_or_else(unclosed)?;
            before = match (before, byte) {
                (b'*', b'/') => {
                    depth -= 1;
                    0
                }
                (b'/', b'*') => {
                    depth += 1;
                    0
                }
                _ => byte,
            };
        }
        self.blank();
        Ok(())
    }

    fn backslash(&mut self) -> Result<(), BackupError> {
        let line = self.text.line()?;
        let word: Vec<u8> =
            line.iter().copied().take_while(|byte| byte.is_ascii_alphabetic()).collect();
        if self.statement.is_empty() && matches!(&*word, b"restrict" | b"unrestrict") {
            return Ok(());
        }
        let word = String::from_utf8_lossy(&word).into_owned();
        Err(BackupError::Refused(format!("its dump has a command for psql, `\\{word}`")))
    }

    /// The next rows behind a `COPY`; `None` behind the last.
    ///
    /// # Errors
    /// If the dump cannot be read, or breaks off.
    pub fn rows(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let mut rows = Vec::new();
        while rows.len() < CHUNK && !self.are_rows_over {
            let line = self.text.line()?;
            match &*line {
                b"" => return Err(BackupError::Refused("its dump ends within rows".into())),
                b"\\.\n" | b"\\.\r\n" | b"\\." => self.are_rows_over = true,
                line => rows.extend_from_slice(line),
            }
        }
        if rows.is_empty() {
            self.are_rows_over = false;
            return Ok(None);
        }
        Ok(Some(rows))
    }
}

/// The statement with another schema in the place of this one. A column or a table may be called like it: a
/// schema is what has a dot behind it, or stands where a schema is named.
#[must_use]
pub fn with_schema(statement: &str, from: &str, to: &str) -> String {
    let names_paths = statement.contains(SEARCH_PATH);
    let mut out = String::with_capacity(statement.len());
    let mut done = 0;
    for (at, _) in statement.match_indices(from) {
        let (before, after) = (&statement[..at], &statement[at + from.len()..]);
        if is_schema(before, after, names_paths) {
            out.push_str(&statement[done..at]);
            out.push_str(to);
            done = at + from.len();
        }
    }
    out + &statement[done..]
}

const SEARCH_PATH: &str = "search_path";

fn is_schema(before: &str, after: &str, names_paths: bool) -> bool {
    let (last, next) = (before.bytes().next_back(), after.bytes().next());
    let is_part = |byte: Option<u8>| byte.is_some_and(is_of_word);
    if is_part(last) || is_part(next) || last == Some(b'.') {
        return false;
    }
    if next == Some(b'.') {
        return true;
    }
    let ends_with = |word: &str| {
        let text = before.trim_end();
        text.len() < before.len()
            && text
                .len()
                .checked_sub(word.len())
                .and_then(|at| text.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(word))
    };
    let is_quoted = matches!((last, next), (Some(b'\''), Some(b'\'')) | (Some(b'"'), Some(b'"')));
    ends_with("schema")
        || names_paths && (is_quoted || ends_with("to") || ends_with("=") || ends_with(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All statements, rows behind theirs.
    fn cut(dump: &str) -> Result<Vec<String>, BackupError> {
        let mut script = Script::new(dump.as_bytes());
        let mut all = Vec::new();
        while let Some(statement) = script.statement()? {
            match statement {
                Statement::Plain(text) => all.push(text),
                Statement::Copy(text) => {
                    all.push(text);
                    while let Some(rows) = script.rows()? {
                        all.push(format!(">{}", String::from_utf8(rows).unwrap()));
                    }
                }
            }
        }
        Ok(all)
    }

    const DUMP: &str = r#"--
-- PostgreSQL database dump; with a ;
--
\restrict abc
SET a = 'x;y''z\';
SELECT E'it\'s;' /* ; /* ; */ ; */ , "a;b""c;", $1;
CREATE FUNCTION f() AS $_$ BEGIN; $$ ; END; $_$;
CREATE FUNCTION g() BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN b END; END;
CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b);
COPY s.t (a, "from stdin") FROM stdin;
1	it's; $$ \\ "
\N	\\! rm
\.

CREATE TABLE begin (a int);
\unrestrict abc
"#;

    #[test]
    fn statements_end_where_psql_ends_them() {
        let cut = cut(DUMP).unwrap();
        for (statement, (begin, end)) in cut.iter().zip([
            ("SET a", "z\\'"),
            ("SELECT E'it", "$1"),
            ("CREATE FUNCTION f", "END; $_$"),
            ("CREATE FUNCTION g", "END; END"),
            ("CREATE RULE", "FROM b)"),
            ("COPY s.t", "stdin"),
            (">1\tit's", "\\\\! rm\n"),
            ("CREATE TABLE begin", "int)"),
        ]) {
            assert!(statement.starts_with(begin) && statement.ends_with(end), "{statement}");
        }
        assert_eq!(cut.len(), 8, "{cut:?}");
    }

    #[test]
    fn commands_for_psql_are_refused_wherever_they_stand() {
        for dump in [
            "\\! touch /tmp/x\n",
            "SELECT 1 \\! touch /tmp/x\n;",
            "SELECT 1;\\o /etc/passwd\n",
            "  \\copy t from program 'id'\n",
            "SELECT 1 \\restrict x\n;",
            "\\connect other\n",
            "SELECT $a$ x $a$ \\g |sh\n",
            "SELECT 'a\\'; \\! id '\n;",
        ] {
            assert!(matches!(cut(dump), Err(BackupError::Refused(_))), "{dump}");
        }
        for good in [
            "SELECT '\\! x'",
            "SELECT $$\n\\! x\n$$",
            "SELECT E'a\\'; \\! b'",
            "-- \\! x\nSELECT 1",
        ] {
            assert_eq!(cut(good).unwrap().len(), 1, "{good}");
        }
    }

    #[test]
    fn what_breaks_off_is_refused() {
        let rows = "COPY t FROM stdin;\n1\n";
        for dump in ["SELECT 'a", "SELECT $x$ a $y$", "/* a", rows, "SELECT \"a"] {
            assert!(cut(dump).is_err(), "{dump}");
        }
    }

    #[test]
    fn a_schema_is_another_where_it_is_the_schema() {
        for (before, after) in [
            ("CREATE TABLE app_a.app_a (b int)", "CREATE TABLE app_b.app_a (b int)"),
            ("SELECT 'app_a.t', app_ab.x, xapp_a.y", "SELECT 'app_b.t', app_ab.x, xapp_a.y"),
            ("SET search_path TO 'app_a'", "SET search_path TO 'app_b'"),
            ("set search_path = x, app_a", "set search_path = x, app_b"),
            ("COMMENT ON SCHEMA app_a IS ''", "COMMENT ON SCHEMA app_b IS ''"),
            (
                "CREATE TABLE app_a.t (app_a text DEFAULT 'app_a')",
                "CREATE TABLE app_b.t (app_a text DEFAULT 'app_a')",
            ),
            ("app_aapp_a.x app_a", "app_aapp_a.x app_a"),
        ] {
            assert_eq!(with_schema(before, "app_a", "app_b"), after);
        }
    }
}
