//! Where a reader of an app's output stands, so that one that was cut off goes on there.

use std::{collections::BTreeMap, fmt, str::FromStr};

use doorbell_config::name::AppId;

/// A place in a file, between two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) inode: u64,
    pub(super) at: u64,
}

/// Where a reader of all replicas stands. As text `1.5217.340,2.5220.17`: a replica's number, its file's
/// inode, and the bytes before; `0` where nothing was ever written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<u8, Mark>);

/// The text of no place at all.
const NONE: &str = "0";

/// What was given as [`Marks`] and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place in an app's output")]
pub struct NoMarks;

impl Marks {
    pub(super) fn new<'a>(marks: impl Iterator<Item = (&'a AppId, Mark)>) -> Self {
        Self(marks.map(|(id, mark)| (id.replica_number(), mark)).collect())
    }

    pub(super) fn of(&self, replica: &AppId) -> Option<Mark> {
        self.0.get(&replica.replica_number()).copied()
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (place, (replica, Mark { inode, at })) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{replica}.{inode}.{at}")?;
        }
        Ok(())
    }
}

impl FromStr for Marks {
    type Err = NoMarks;

    fn from_str(text: &str) -> Result<Self, NoMarks> {
        if text == NONE {
            return Ok(Self::default());
        }
        let mark = |text: &str| {
            let mut numbers = text.splitn(3, '.');
            let mut next = || numbers.next();
            let replica = next()?.parse().ok()?;
            let (inode, at) = (next()?.parse().ok()?, next()?.parse().ok()?);
            Some((replica, Mark { inode, at }))
        };
        text.split(',').map(mark).collect::<Option<_>>().map(Self).ok_or(NoMarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_from_their_text() {
        let app = AppId::parse("blog").unwrap();
        let two = app.replica(2);
        let at = |at| Mark { inode: u64::MAX, at };
        let marks = Marks::new([(&app, at(0)), (&two, at(17))].into_iter());
        let text = marks.to_string();
        assert_eq!(text, format!("1.{0}.0,2.{0}.17", u64::MAX));
        assert_eq!(text.parse(), Ok(marks.clone()));
        assert_eq!((marks.of(&two), marks.of(&app.replica(3))), (Some(at(17)), None));
        assert_eq!(Marks::default().to_string().parse(), Ok(Marks::default()));
        for bad in ["", "1", "1.2", "x.1.2", "1.2.3.4", "1.-2.3", "256.1.1", "1.2.3,x"] {
            assert_eq!(bad.parse::<Marks>(), Err(NoMarks), "{bad}");
        }
    }
}
