//! The output of an app's replicas as one.
//!
//! Lines have no time of their own. So what was written before somebody looks is told replica by replica,
//! the one that wrote last at the end; what comes after that, as it comes. Where there are several, each
//! line begins with whose it is.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use doorbell_config::name::AppId;

use super::{CURRENT, Follow, Marks, PACE};

/// Lines of several replicas as they are written; see [`follow_all`].
#[derive(Debug)]
pub struct FollowAll(Vec<Part>);

/// A line, and whose it is. It is shown with that where there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The replica that wrote it.
    pub app: AppId,
    /// What it wrote, without the end of the line.
    pub text: String,
    /// What is shown before it.
    name: Arc<str>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.text)
    }
}

#[derive(Debug)]
struct Part {
    app: AppId,
    /// What its lines are shown with.
    name: Arc<str>,
    follow: Follow,
}

/// The last `lines` lines of each of these replicas.
///
/// # Errors
/// If a file cannot be read. One without output has no lines.
pub async fn tail_all(log_dir: &Path, replicas: &[AppId], lines: usize) -> io::Result<Vec<Line>> {
    let mut all = follow_all(log_dir, replicas, lines).await?;
    Ok(std::iter::from_fn(|| all.next_read()).collect())
}

/// Follows the output of these replicas: first the last `lines` lines of each, then each new one, across
/// rotations, none lost and none repeated.
///
/// # Errors
/// If a file cannot be read.
pub async fn follow_all(log_dir: &Path, replicas: &[AppId], lines: usize) -> io::Result<FollowAll> {
    let (log_dir, replicas) = (log_dir.to_owned(), replicas.to_owned());
    let open =
        move || FollowAll::open(&log_dir, &replicas, |_, folder| Follow::open(folder, lines));
    tokio::task::spawn_blocking(open).await?
}

/// Follows the output of these replicas from where another has stopped: none lost and none repeated, but
/// for what was removed since by rotation. Of a replica that it did not know, all is new.
///
/// # Errors
/// If a file cannot be read.
pub async fn follow_from(
    log_dir: &Path,
    replicas: &[AppId],
    marks: Marks,
) -> io::Result<FollowAll> {
    let (log_dir, replicas) = (log_dir.to_owned(), replicas.to_owned());
    let open = move || {
        FollowAll::open(&log_dir, &replicas, |id, folder| Follow::open_at(folder, marks.of(id)))
    };
    tokio::task::spawn_blocking(open).await?
}

impl FollowAll {
    fn open(
        log_dir: &Path,
        replicas: &[AppId],
        open: impl Fn(&AppId, PathBuf) -> io::Result<Follow>,
    ) -> io::Result<Self> {
        let longest = replicas.iter().map(|id| id.as_str().len()).max().unwrap_or_default();
        let mut parts = Vec::with_capacity(replicas.len());
        for id in replicas {
            let name = match replicas {
                [_] => "".into(),
                _ => format!("{:longest$} | ", id.as_str()).into(),
            };
            let folder = log_dir.join(&*id.file_name());
            let written = written_at(&folder)?;
            let follow = open(id, folder)?;
            parts.push((written, Part { app: id.clone(), name, follow }));
        }
        parts.sort_by_key(|(written, _)| *written);
        Ok(Self(parts.into_iter().map(|(_, part)| part).collect()))
    }

    /// The next line, waiting for it if need be. Dropping this future loses none.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn next_line(&mut self) -> io::Result<Line> {
        loop {
            if let Some(line) = self.next_read() {
                return Ok(line);
            }
            let mut is_more = false;
            for part in &mut self.0 {
                is_more |= part.follow.read_on()?;
            }
            if !is_more {
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// Where it stands: behind the last line that it gave.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks::new(self.0.iter().filter_map(|part| Some((&part.app, part.follow.mark?))))
    }

    /// The next of those that were read already.
    fn next_read(&mut self) -> Option<Line> {
        self.0.iter_mut().find_map(|Part { app, name, follow }| {
            let text = follow.next_read()?;
            Some(Line { app: app.clone(), text, name: Arc::clone(name) })
        })
    }
}

/// When a log was written to last; `None` if there is none.
fn written_at(folder: &Path) -> io::Result<Option<SystemTime>> {
    match folder.join(CURRENT).metadata() {
        Ok(current) => current.modified().map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use doorbell_config::{name::ByteSize, spec::OutputSpec};

    use super::*;
    use crate::output::Logs;

    #[tokio::test]
    async fn lines_of_all_replicas_are_told_with_whose_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppId::parse("blog").unwrap();
        let replicas = [app.clone(), app.replica(2)];
        let logs = Logs::new(folder.path().into());
        let write = |id: &AppId, line: &str| {
            let log = logs.open(id, OutputSpec::default());
            log.write(format!("{line}\n").as_bytes(), &mut |_| {}).1.unwrap();
        };
        write(&replicas[1], "of two");
        write(&replicas[1], "and more");
        write(&replicas[0], "of one");
        let shown = async |replicas: &[AppId], lines| {
            let lines = tail_all(folder.path(), replicas, lines).await.unwrap();
            lines.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut told = shown(&replicas, 1).await;
        told.sort();
        assert_eq!(told, ["blog   | of one", "blog:2 | and more"]);
        assert_eq!(shown(&replicas[1..], 9).await, ["of two", "and more"]);
        let mut follow = follow_all(folder.path(), &replicas, 0).await.unwrap();
        for (id, line) in [(0, "a"), (1, "b"), (0, "c")] {
            write(&replicas[id], line);
            let expected = format!("{:6} | {line}", replicas[id].as_str());
            let next = follow.next_line().await.unwrap();
            assert_eq!((next.to_string(), &next.app), (expected, &replicas[id]));
        }
    }

    #[tokio::test]
    async fn who_was_cut_off_goes_on_where_it_stopped_across_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppId::parse("blog").unwrap();
        let replicas = [app.clone(), app.replica(2)];
        let logs = Logs::new(folder.path().into());
        let spec = OutputSpec { max_size: ByteSize(200), keep: 1000 };
        let write = |id: &AppId, numbers: std::ops::Range<u32>| {
            let log = logs.open(id, spec);
            for n in numbers {
                log.write(format!("line {n}\n").as_bytes(), &mut |_| {}).1.unwrap();
            }
        };
        let next = async |follow: &mut FollowAll| follow.next_line().await.unwrap().text;
        write(&app, 0..10);
        let mut marks = follow_all(folder.path(), &replicas, 3).await.unwrap().marks();
        // Each is cut off behind its third line, with more read than told.
        for n in (7..607).step_by(3) {
            if n % 2 == 0 {
                write(&app, n..n + 6);
            }
            let again = marks.to_string().parse().unwrap();
            let mut follow = follow_from(folder.path(), &replicas, again).await.unwrap();
            for n in n..n + 3 {
                assert_eq!(next(&mut follow).await, format!("line {n}"));
            }
            marks = follow.marks();
        }
        // Of one that had written nothing, all is new; of one whose file is gone, what is there.
        write(&replicas[1], 0..2);
        let mut follow = follow_from(folder.path(), &replicas[1..], marks).await.unwrap();
        assert_eq!([next(&mut follow).await, next(&mut follow).await], ["line 0", "line 1"]);
        let marks = follow.marks();
        std::fs::remove_dir_all(folder.path().join(&*replicas[1].file_name())).unwrap();
        let logs = Logs::new(folder.path().into());
        logs.open(&replicas[1], spec).write(b"anew\n", &mut |_| {}).1.unwrap();
        let mut follow = follow_from(folder.path(), &replicas[1..], marks).await.unwrap();
        assert_eq!(next(&mut follow).await, "anew");
    }
}
