//! The files of `pg_wal`: which timelines they tell of, where records end, and stubs for timelines that must never be
//! used.
//!
//! Formats: PostgreSQL's `xlog_internal.h` (page headers, names of segments) and `timeline.c` (history files).

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flypg_core::failover::Switch;
use flypg_core::protocol::Lsn;

use crate::account::Account;
use crate::files;

/// Bytes of a page of WAL (`XLOG_BLCKSZ` of every distributed build).
const PAGE: u64 = 8192;
/// Bytes of a page's header, and of that of a segment's first page.
const HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// By these words a stub is told from the history of a timeline that exists. Behind a position that no node has: a
/// standby that sees only the stub stays where it is, and says so.
const STUB: &str = "flypg: authorised and never used";

pub fn directory(pgdata: &Path) -> PathBuf {
    pgdata.join("pg_wal")
}

fn history_file(pgdata: &Path, timeline: u32) -> PathBuf {
    directory(pgdata).join(format!("{timeline:08X}.history"))
}

/// Where the timelines before `timeline` ended, oldest first; `None` if its history is not here.
pub fn switches(pgdata: &Path, timeline: u32) -> io::Result<Option<Vec<Switch>>> {
    if timeline == 1 {
        return Ok(Some(Vec::new()));
    }
    let found = files::read_if_there(&history_file(pgdata, timeline))?;
    Ok(found.and_then(|bytes| {
        let text = String::from_utf8_lossy(&bytes);
        (!text.contains(STUB)).then(|| parse_history(&text))
    }))
}

/// A line per timeline that ended: its number, where, and why.
fn parse_history(text: &str) -> Vec<Switch> {
    let switch = |line: &str| {
        let mut columns = line.split('\t');
        Some(Switch { timeline: columns.next()?.trim().parse().ok()?, at: columns.next()?.trim().parse().ok()? })
    };
    text.lines().filter_map(switch).collect()
}

/// The timelines whose histories are here, and those of which only a stub is.
fn histories(pgdata: &Path) -> io::Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let (mut real, mut stubs) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(directory(pgdata))? {
        let name = entry?.file_name();
        let timeline = name.to_str().and_then(|name| name.strip_suffix(".history")).filter(|digits| digits.len() == 8);
        let Some(timeline) = timeline.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else { continue };
        match switches(pgdata, timeline)? {
            Some(_) => real.insert(timeline),
            None => stubs.insert(timeline),
        };
    }
    Ok((real, stubs))
}

/// Why the next promotion would not come out on the authorised timeline.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    #[error("the histories of timelines cannot be read or written")]
    Io(#[from] io::Error),
    #[error("timeline {timeline} is authorised, but a promotion from timeline {own} would come out on {would}")]
    Elsewhere { timeline: u32, own: u32, would: u32 },
}

/// Leaves stubs so that a promotion from timeline `own` comes out on `timeline` and no other (rule R8): PostgreSQL
/// takes the first number above its own of which it finds no history.
pub fn leave_stubs(
    pgdata: &Path,
    own: u32,
    timeline: u32,
    burnt: &[u32],
    owner: Option<Account>,
) -> Result<(), StubError> {
    let (real, stubs) = histories(pgdata)?;
    let text = format!("{own}\t0/1\t{STUB}\n");
    for number in burnt.iter().filter(|number| (own + 1..timeline).contains(number)) {
        if !real.contains(number) && !stubs.contains(number) {
            files::replace(&history_file(pgdata, *number), text.as_bytes(), owner)?;
        }
    }
    let (real, stubs) = histories(pgdata)?;
    let would = (own + 1..).find(|number| !real.contains(number) && !stubs.contains(number)).unwrap_or(u32::MAX);
    match would == timeline {
        true => Ok(()),
        false => Err(StubError::Elsewhere { timeline, own, would }),
    }
}

/// Removes stubs that no history comes after: a standby that starts with one takes it for the newest timeline, finds
/// that its own data are not on it, and gives up. A promotion leaves them anew.
pub fn forget_lonely_stubs(pgdata: &Path) -> io::Result<()> {
    let (real, stubs) = histories(pgdata)?;
    let last = real.last().copied().unwrap_or(1);
    for stub in stubs.into_iter().filter(|stub| *stub > last) {
        std::fs::remove_file(history_file(pgdata, stub))?;
    }
    Ok(())
}

/// Makes stubs of the histories that come after `own`: a promotion would begin from the last of them, on which this
/// node's data are not. True if there were any; a Postgres that runs goes by them all the same until it is started anew.
pub fn forsake_later_histories(pgdata: &Path, own: u32, owner: Option<Account>) -> io::Result<bool> {
    let (real, _) = histories(pgdata)?;
    let later: Vec<u32> = real.into_iter().filter(|timeline| *timeline > own).collect();
    let text = format!("{own}\t0/1\t{STUB}\n");
    for timeline in &later {
        files::replace(&history_file(pgdata, *timeline), text.as_bytes(), owner)?;
    }
    Ok(!later.is_empty())
}

/// The timeline that the byte before `lsn` is on, as far as the segments here tell; `None` if none of them has it.
///
/// A standby's own functions do not say it: what the control file knows is as old as its last restartpoint, and a
/// history file may be that of a timeline which it never followed.
pub fn timeline_at(pgdata: &Path, lsn: Lsn, segment: u64) -> io::Result<Option<u32>> {
    let Some(last) = lsn.0.checked_sub(1) else { return Ok(None) };
    let suffix = segment_suffix(last / segment, segment);
    let mut found = None;
    for entry in std::fs::read_dir(directory(pgdata))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(timeline) = name.to_str().and_then(|name| name.strip_suffix(suffix.as_str())) else { continue };
        let Some(timeline) = u32::from_str_radix(timeline, 16).ok().filter(|_| timeline.len() == 8) else { continue };
        // A segment that was recycled for later use begins with a page of an earlier place.
        if begins_at(&entry.path(), last / segment * segment)? {
            found = found.max(Some(timeline));
        }
    }
    let Some(timeline) = found else { return Ok(None) };
    // A new timeline's first segment begins with the end of the one before.
    let before = switches(pgdata, timeline)?.unwrap_or_default();
    Ok(Some(before.iter().find(|switch| lsn <= switch.at).map_or(timeline, |switch| switch.timeline)))
}

/// The newest timeline of which WAL lies here.
pub fn newest_timeline(pgdata: &Path) -> io::Result<Option<u32>> {
    let mut newest = None;
    for entry in std::fs::read_dir(directory(pgdata))? {
        newest = newest.max(entry?.file_name().to_str().and_then(segment_of).map(|(timeline, _)| timeline));
    }
    Ok(newest)
}

/// The segments of `timeline` from the one that holds `from` on.
pub fn segments_from(pgdata: &Path, timeline: u32, from: Lsn, segment: u64) -> io::Result<Vec<PathBuf>> {
    let first = segment_suffix(from.0 / segment, segment);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory(pgdata))? {
        let entry = entry?;
        let of = entry.file_name().to_str().and_then(segment_of).filter(|(of, _)| *of == timeline);
        if of.is_some_and(|(_, suffix)| suffix >= first) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn segment_of(name: &str) -> Option<(u32, String)> {
    let whole = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let (timeline, suffix) = name.split_at_checked(8).filter(|_| whole)?;
    Some((u32::from_str_radix(timeline, 16).ok()?, suffix.to_owned()))
}

/// What the name of a segment ends with.
fn segment_suffix(number: u64, segment: u64) -> String {
    let each = (1u64 << 32) / segment;
    format!("{:08X}{:08X}", number / each, number % each)
}

/// Whether a segment has been written to, and begins here. Only its first page is sure to be there: what follows a
/// switch to the next segment is empty.
fn begins_at(path: &Path, start: u64) -> io::Result<bool> {
    // magic (2), flags (2), timeline (4), address of the page (8)
    let mut header = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read.map_err(|error| error.kind()) {
        Ok(()) => {}
        // Recycled meanwhile, or not made yet.
        Err(io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => return Ok(false),
        Err(kind) => return Err(kind.into()),
    }
    let address = header[8..].try_into().expect("eight bytes");
    Ok(header[..2] != [0, 0] && u64::from_ne_bytes(address) == start)
}

/// Where a record that begins at `start` and has `length` bytes ends: the position that a standby which has it reports.
pub fn record_end(start: Lsn, length: u64, segment: u64) -> Lsn {
    let (mut at, mut left) = (start.0, length.next_multiple_of(8));
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return Lsn(at + left);
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment) { LONG_HEADER } else { HEADER };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn pgdata() -> tempfile::TempDir {
        let pgdata = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory(pgdata.path())).unwrap();
        pgdata
    }

    fn put(pgdata: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(directory(pgdata).join(name), bytes).unwrap();
    }

    /// A segment whose pages say where they belong.
    fn segment(pgdata: &Path, timeline: u32, number: u64, belongs: u64) {
        let mut bytes = vec![0; usize::try_from(SEGMENT).unwrap()];
        for page in (0..SEGMENT).step_by(PAGE as usize) {
            let at = usize::try_from(page).unwrap();
            bytes[at..at + 2].copy_from_slice(&0xD110u16.to_ne_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&(belongs * SEGMENT + page).to_ne_bytes());
        }
        put(pgdata, &format!("{timeline:08X}{}", segment_suffix(number, SEGMENT)), &bytes);
    }

    #[test]
    fn histories_as_postgres_writes_them_and_stubs_are_told_apart() {
        let pgdata = pgdata();
        put(pgdata.path(), "00000003.history", b"1\t0/3000158\tno recovery target specified\n\n");
        assert_eq!(switches(pgdata.path(), 1).unwrap(), Some(vec![]));
        assert_eq!(switches(pgdata.path(), 2).unwrap(), None);
        let only = Switch { timeline: 1, at: lsn("0/3000158") };
        assert_eq!(switches(pgdata.path(), 3).unwrap(), Some(vec![only]));
        // From timeline 1, number 2 is burnt and 3 is used: 4 comes next.
        leave_stubs(pgdata.path(), 1, 4, &[2], None).unwrap();
        assert_eq!(switches(pgdata.path(), 2).unwrap(), None);
        let elsewhere = leave_stubs(pgdata.path(), 1, 6, &[2], None).unwrap_err();
        assert!(matches!(elsewhere, StubError::Elsewhere { would: 4, .. }), "{elsewhere}");
        let taken = leave_stubs(pgdata.path(), 1, 3, &[2], None).unwrap_err();
        assert!(matches!(taken, StubError::Elsewhere { would: 4, .. }), "{taken}");

        leave_stubs(pgdata.path(), 3, 6, &[2, 4, 5], None).unwrap();
        forget_lonely_stubs(pgdata.path()).unwrap();
        let (real, stubs) = histories(pgdata.path()).unwrap();
        assert_eq!((real, stubs), ([3].into(), [2].into()), "3 comes after 2 and none after 4 and 5");
    }

    #[test]
    fn the_timeline_of_a_position_is_that_of_the_segment_that_holds_it() {
        let pgdata = pgdata();
        put(pgdata.path(), "00000002.history", b"1\t0/3000158\tx\n");
        segment(pgdata.path(), 1, 3, 3);
        let at = |text| timeline_at(pgdata.path(), lsn(text), SEGMENT).unwrap();
        // It knows of timeline 2 and never followed it.
        assert_eq!(at("0/3000200"), Some(1));
        segment(pgdata.path(), 2, 3, 3);
        assert_eq!(at("0/3000200"), Some(2));
        assert_eq!((at("0/3000158"), at("0/3000100")), (Some(1), Some(1)), "what it begins with is the other's");
        // The first byte after a segment is none of its own.
        assert_eq!((at("0/4000000"), at("0/4000001"), at("0/0")), (Some(2), None, None));
        // Kept for later use, with what it held before.
        segment(pgdata.path(), 2, 4, 1);
        assert_eq!(at("0/4000100"), None);
        assert_eq!(newest_timeline(pgdata.path()).unwrap(), Some(2));
        assert_eq!(segments_from(pgdata.path(), 2, lsn("0/3FFFFFF"), SEGMENT).unwrap().len(), 2);
        assert_eq!(segments_from(pgdata.path(), 2, lsn("0/4000000"), SEGMENT).unwrap().len(), 1);
        assert_eq!(segment_suffix(0x1FF, SEGMENT), "00000001000000FF");
    }

    #[test]
    fn records_end_behind_the_headers_of_the_pages_they_cross() {
        let end = |start, length| record_end(lsn(start), length, SEGMENT);
        assert_eq!(end("0/3000028", 114), lsn("0/30000A0"));
        // Up to the last byte of a page, and over its end.
        assert_eq!(end("0/3001F88", 120), lsn("0/3002000"));
        assert_eq!(end("0/3001F90", 120), lsn("0/3002020"));
        // Into the next segment, whose first header is the longer one.
        assert_eq!(end("0/3FFFF90", 120), lsn("0/4000030"));
        // Over several pages.
        assert_eq!(end("0/3001F90", 112 + 8168 + 8), lsn("0/3004020"));
    }
}
