//! A dump of MariaDB or MySQL, as `mariadb-dump` and `mysqldump` write it.
//!
//! Statements end with the delimiter, which a line `DELIMITER …` changes; that is the client's only command
//! that is known here. All others would reach the server, which knows none of them. Comments of the kind
//! `/*! … */` are statements to the server, and stay.

use std::io::Read;

use super::{MOST_BYTES, Text, is_of_word, text, too_large, unclosed};
use crate::backup::BackupError;

/// What changes how strings are read.
const SET_MODE: &str = "set sql_mode";

/// A dump that is read.
pub struct Script<R> {
    text: Text<R>,
    delimiter: Vec<u8>,
    statement: Vec<u8>,
    /// Whether a backslash between quotes is one like any other.
    are_backslashes_plain: bool,
}

impl<R: Read> Script<R> {
    /// A dump.
    pub fn new(input: R) -> Self {
        let (text, delimiter) = (Text::new(input), b";".to_vec());
        Self { text, delimiter, statement: Vec::new(), are_backslashes_plain: false }
    }

    /// The next statement, without what ends it; `None` at the end.
    ///
    /// # Errors
    /// If the dump cannot be read, or breaks off.
    pub fn statement(&mut self) -> Result<Option<String>, BackupError> {
        self.statement.clear();
        while let Some(byte) = self.text.next()? {
            if self.statement.len() >= MOST_BYTES {
                return Err(too_large());
            }
            if byte.is_ascii_whitespace() && self.statement.is_empty() {
                continue;
            }
            self.part(byte)?;
            if self.is_delimiter_line() {
                let line = self.text.line()?;
                self.delimiter = line.trim_ascii().to_vec();
                if self.delimiter.is_empty() {
                    return Err(BackupError::Refused("its dump has an empty delimiter".into()));
                }
                self.statement.clear();
            } else if self.statement.ends_with(&self.delimiter) {
                let end = self.statement.len() - self.delimiter.len();
                self.statement.truncate(end);
                if !self.is_blank() {
                    return self.finished().map(Some);
                }
                self.statement.clear();
            }
        }
        if self.is_blank() { Ok(None) } else { self.finished().map(Some) }
    }

    fn finished(&mut self) -> Result<String, BackupError> {
        let statement = text(std::mem::take(&mut self.statement))?;
        let begin = statement.chars().skip_while(|c| !c.is_alphabetic()).take(SET_MODE.len());
        let begin: String = begin.collect();
        // Routines are dumped with the settings that they were made under.
        if begin.eq_ignore_ascii_case(SET_MODE) {
            self.are_backslashes_plain = statement.contains("NO_BACKSLASH_ESCAPES");
        }
        Ok(statement)
    }

    fn is_delimiter_line(&self) -> bool {
        self.statement.eq_ignore_ascii_case(b"delimiter ")
    }

    /// Whether there is nothing in it for the server: comments that stay are closed in one piece.
    fn is_blank(&self) -> bool {
        self.statement.trim_ascii().is_empty()
    }

    fn part(&mut self, byte: u8) -> Result<(), BackupError> {
        self.statement.push(byte);
        match byte {
            b'\'' | b'"' => self.quoted(byte, !self.are_backslashes_plain),
            b'`' => self.quoted(byte, false),
            b'#' => self.line_comment(1),
            // `-- `: two dashes and a blank; without one they are a sum.
            byte if self.statement.ends_with(b"--") && byte == b'-' => match self.text.peek()? {
                Some(next) if !next.is_ascii_whitespace() => Ok(()),
                _ => self.line_comment(2),
            },
            b'*' if self.statement.ends_with(b"/*") => self.comment(),
            _ => Ok(()),
        }
    }

    fn quoted(&mut self, quote: u8, has_escapes: bool) -> Result<(), BackupError> {
        self.text.quoted(&mut self.statement, quote, has_escapes)
    }

    /// Leaves out the line, and what of it is in the statement already.
    fn line_comment(&mut self, begun: usize) -> Result<(), BackupError> {
        self.text.line()?;
        self.statement.truncate(self.statement.len() - begun);
        if !self.statement.is_empty() {
            self.statement.push(b'\n');
        }
        Ok(())
    }

    /// Leaves a plain comment out. One that is for the server is read on as what it is.
    fn comment(&mut self) -> Result<(), BackupError> {
        match self.text.peek()? {
            // The mode that MariaDB's client is to run such dumps in; no server has this version.
            // A hint to the optimizer.
            Some(b'+') => Ok(()),
            Some(b'!' | b'M') => {
                let begin = self.text.next()?.unwrap_or_default();
                self.statement.push(begin);
                if begin == b'M' && self.text.peek()? != Some(b'!') {
                    self.statement.pop();
                    return self.plain_comment();
                }
                Ok(())
            }
            _ => self.plain_comment(),
        }
    }

    fn plain_comment(&mut self) -> Result<(), BackupError> {
        let start = self.statement.len() - 2;
        self.statement.truncate(start);
        let mut before = 0;
        loop {
            let byte = self.text.next()?.ok_or_else(unclosed)?;
            if (before, byte) == (b'*', b'/') {
                break;
            }
            before = byte;
        }
        if !self.statement.is_empty() {
            self.statement.push(b' ');
        }
        Ok(())
    }
}

/// The statement without the name of the database that it changes: then it is the one that is restored. A dump
/// changes its settings around what was made under others.
#[must_use]
pub fn without_database(statement: &str) -> String {
    const BEGIN: &str = "ALTER DATABASE ";
    let trimmed = statement.trim_start();
    let bytes = trimmed.as_bytes();
    let begins = bytes.get(..BEGIN.len()).is_some_and(|b| b.eq_ignore_ascii_case(BEGIN.as_bytes()));
    if !begins || bytes.get(BEGIN.len()) != Some(&b'`') {
        return statement.to_owned();
    }
    let mut end = behind_quotes(bytes, BEGIN.len(), b'`');
    // A quote in the name is there twice.
    while bytes.get(end) == Some(&b'`') {
        end = behind_quotes(bytes, end, b'`');
    }
    format!("{BEGIN}{}", trimmed[end..].trim_start())
}

/// The statement without the user who is to be its definer, who may not be there: then it is whoever makes it.
#[must_use]
pub fn without_definer(statement: &str) -> String {
    let bytes = statement.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"' | b'`') => at = behind_quotes(bytes, at, quote),
            byte if is_of_word(byte) => {
                let end = bytes[at..].iter().position(|byte| !is_of_word(*byte));
                let end = end.map_or(bytes.len(), |length| at + length);
                if bytes[at..end].eq_ignore_ascii_case(b"definer")
                    && let Some(behind) = behind_user(bytes, end)
                {
                    return format!("{}{}", &statement[..at], &statement[behind..]);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    statement.to_owned()
}

/// Behind ` = user@host`.
fn behind_user(bytes: &[u8], from: usize) -> Option<usize> {
    let blank = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    let name = |at: usize| match bytes.get(at)? {
        quote @ (b'\'' | b'"' | b'`') => Some(behind_quotes(bytes, at, *quote)),
        byte if is_of_word(*byte) => {
            let length = bytes[at..].iter().position(|byte| !is_of_word(*byte));
            Some(length.map_or(bytes.len(), |length| at + length))
        }
        _ => None,
    };
    let at = blank(from);
    if bytes.get(at) != Some(&b'=') {
        return None;
    }
    let user = name(blank(at + 1))?;
    if bytes.get(user) == Some(&b'@') { name(user + 1) } else { Some(user) }
}

/// A quote that is there twice closes and opens again, which comes to the same here.
fn behind_quotes(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from + 1;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match *byte {
            b'\\' if quote != b'`' => at += 1,
            byte if byte == quote => break,
            _ => {}
        }
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(dump: &str) -> Result<Vec<String>, BackupError> {
        let mut script = Script::new(dump.as_bytes());
        let mut all = Vec::new();
        while let Some(statement) = script.statement()? {
            all.push(statement);
        }
        Ok(all)
    }

    #[test]
    fn statements_end_with_the_delimiter_of_the_moment() {
        let dump = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump; 10\n--\n# x ;\n\
            /*!40101 SET NAMES utf8mb4 */;\n/* plain ; */\n\
            INSERT INTO `a;``b` VALUES ('x;''\\';-- ', \"#\", 5--1);\n\
            DELIMITER ;;\n\
            /*!50003 CREATE*/ /*!50017 DEFINER=`u`@`%`*/ /*!50003 TRIGGER t BEGIN SET a = 1; -- ;;\n END */;;\n\
            DELIMITER ;\nSELECT 1";
        let cut = cut(dump).unwrap();
        assert_eq!(cut.len(), 4, "{cut:?}");
        assert!(cut[0].ends_with("/*!40101 SET NAMES utf8mb4 */"), "{cut:?}");
        assert_eq!(cut[1], "INSERT INTO `a;``b` VALUES ('x;''\\';-- ', \"#\", 5--1)");
        assert!(cut[2].ends_with("a = 1; \n END */"), "{cut:?}");
        assert_eq!(cut[3], "SELECT 1");
    }

    #[test]
    fn what_the_client_would_run_is_a_statement_like_any_other() {
        assert_eq!(cut("system id\n\\! id\n;").unwrap(), ["system id\n\\! id\n"]);
        assert!(cut("SELECT 'a").is_err() && cut("/* a").is_err());
    }

    #[test]
    fn hints_stay() {
        let hinted = "SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1";
        assert_eq!(cut(&format!("{hinted};")).unwrap(), [hinted]);
    }

    #[test]
    fn a_database_that_is_changed_is_the_one_that_is_restored() {
        let changed = without_database("ALTER DATABASE `app_``b` CHARACTER SET utf8mb4 COLLATE x ");
        assert_eq!(changed, "ALTER DATABASE CHARACTER SET utf8mb4 COLLATE x ");
        for other in ["ALTER TABLE `a` ADD b int", "ALTER DATABASE CHARACTER SET x", "SELECT 1"] {
            assert_eq!(without_database(other), other);
        }
    }

    #[test]
    fn backslashes_are_what_the_dump_says() {
        let dump = "/*!50003 SET sql_mode = 'NO_BACKSLASH_ESCAPES' */ ;\nSELECT 'a\\';\n\
            /*!50003 SET sql_mode = '' */ ;\nSELECT 'a\\';b'";
        assert_eq!(cut(dump).unwrap().len(), 4);
    }

    #[test]
    fn the_definer_goes_and_what_looks_like_one_stays() {
        for (before, after) in [
            ("CREATE DEFINER=`a`@`localhost` PROCEDURE p()", "CREATE  PROCEDURE p()"),
            (
                "/*!50013 DEFINER = 'a'@'%' SQL SECURITY DEFINER */ x",
                "/*!50013  SQL SECURITY DEFINER */ x",
            ),
            ("CREATE DEFINER=CURRENT_USER VIEW v", "CREATE  VIEW v"),
            ("SELECT 'DEFINER=`a`@`b`', `definer` = 1", "SELECT 'DEFINER=`a`@`b`', `definer` = 1"),
            ("SQL SECURITY DEFINER x", "SQL SECURITY DEFINER x"),
            ("SELECT 'it''s \\' DEFINER=x'", "SELECT 'it''s \\' DEFINER=x'"),
        ] {
            assert_eq!(without_definer(before), after);
        }
    }
}
