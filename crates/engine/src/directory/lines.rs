//! Texts compared line by line: what differs, as a patch writes it, and bringing two changes of one text together.
//!
//! The comparison is the one of `git diff`: the shortest way where that is soon found, a good one otherwise. Its work grows as the
//! texts do, whatever is in them; of more than [`COMPARED_MAX`] lines everything counts as different.

use std::{mem::take, ops::Range};

use imara_diff::{Algorithm, Diff, InternedInput, Token};

/// Most lines of a text whose differences are looked for.
const COMPARED_MAX: usize = 4 << 20;
/// Texts of more lines than this are cut where a line stands once in each of them, or else anywhere, and compared in pieces: all
/// the time that comparing takes is the longer text's length times this.
const PIECE: usize = 10_000;
/// Lines around a difference that a patch shows.
const CONTEXT: usize = 3;
/// Most bytes of the line that tells in a hunk's head where it is.
const PLACE_MAX: usize = 80;
/// Most comparisons of lines while the place of a patch's hunks is looked for.
const TRIES_MAX: u64 = 1 << 30;
/// What follows a line that is the last one and does not end.
const NO_NEWLINE: &[u8] = b"\\ No newline at end of file\n";

/// Lines of one text that stand where there are others in the other one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    old: Range<usize>,
    new: Range<usize>,
}

/// The lines, each with its end.
pub(super) fn split(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|b| *b == b'\n').collect()
}

/// Differences in the order of the texts; between two there is at least one line that both have. `readable`: of several ways to
/// tell the same, the one people prefer.
fn differences(old: &[&[u8]], new: &[&[u8]], readable: bool) -> Vec<Difference> {
    if old.len().max(new.len()) > COMPARED_MAX {
        let all = Difference {
            old: 0..old.len(),
            new: 0..new.len(),
        };
        return if old == new { vec![] } else { vec![all] };
    }
    let mut input = InternedInput::default();
    input.update_before(old.iter().copied());
    input.update_after(new.iter().copied());
    let (before, after) = (take(&mut input.before), take(&mut input.after));
    let mut found: Vec<Difference> = Vec::new();
    for piece in pieces(&before, &after, input.interner.num_tokens() as usize) {
        input.before.clear();
        input.after.clear();
        input.before.extend_from_slice(&before[piece.old.clone()]);
        input.after.extend_from_slice(&after[piece.new.clone()]);
        let mut diff = Diff::compute(Algorithm::Myers, &input);
        if readable {
            diff.postprocess_lines(&input);
        }
        for hunk in diff.hunks() {
            let range = |r: Range<u32>, start| r.start as usize + start..r.end as usize + start;
            let d = Difference {
                old: range(hunk.before, piece.old.start),
                new: range(hunk.after, piece.new.start),
            };
            match found.last_mut() {
                // The end of one piece and the beginning of the next.
                Some(last) if last.old.end == d.old.start => {
                    last.old.end = d.old.end;
                    last.new.end = d.new.end;
                }
                _ => found.push(d),
            }
        }
    }
    found
}

/// Pieces of two texts that are compared with each other; what is between pieces is the same in both.
fn pieces(before: &[Token], after: &[Token], tokens: usize) -> Vec<Difference> {
    let small = |old: &Range<usize>, new: &Range<usize>| {
        old.len().saturating_mul(new.len()) <= PIECE * PIECE
    };
    let start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let tail = before[start..]
        .iter()
        .rev()
        .zip(after[start..].iter().rev());
    let tail = tail.take_while(|(a, b)| a == b).count();
    // A few of those that are the same are left to choose from.
    let end = tail.saturating_sub(PIECE / 100);
    let start = start.saturating_sub(PIECE / 100);
    let (old, new) = (start..before.len() - end, start..after.len() - end);
    if small(&old, &new) {
        return vec![Difference { old, new }];
    }
    let mut out = Vec::new();
    let mut from = (old.start, new.start);
    let mut last = from;
    let end = (old.end, new.end);
    for at in anchors(before, after, &old, &new, tokens)
        .into_iter()
        .chain([end])
    {
        if !small(&(from.0..at.0), &(from.1..at.1)) {
            cut(from, last, &mut out);
            from = last;
            if !small(&(from.0..at.0), &(from.1..at.1)) {
                cut(from, at, &mut out);
                from = at;
            }
        }
        last = at;
    }
    cut(from, end, &mut out);
    out
}

/// Adds the lines between two places, in as many pieces as it takes to have small ones.
fn cut(from: (usize, usize), to: (usize, usize), out: &mut Vec<Difference>) {
    let (old, new) = (to.0 - from.0, to.1 - from.1);
    if old == 0 && new == 0 {
        return;
    }
    let n = match old.saturating_mul(new) <= PIECE * PIECE {
        true => 1,
        false => old.max(new).div_ceil(PIECE),
    };
    let at = |start: usize, len: usize, i: usize| start + len * i / n;
    out.extend((0..n).map(|i| Difference {
        old: at(from.0, old, i)..at(from.0, old, i + 1),
        new: at(from.1, new, i)..at(from.1, new, i + 1),
    }));
}

/// Where lines stand that are once in each of the ranges: as many as there are in the same order.
fn anchors(
    before: &[Token],
    after: &[Token],
    old: &Range<usize>,
    new: &Range<usize>,
    tokens: usize,
) -> Vec<(usize, usize)> {
    const NONE: u32 = u32::MAX;
    const MANY: u32 = u32::MAX - 1;
    let places = |text: &[Token], range: &Range<usize>| {
        let mut places = vec![NONE; tokens];
        for at in range.clone() {
            let place = &mut places[text[at].0 as usize];
            *place = match *place {
                NONE => u32::try_from(at).unwrap_or(MANY),
                _ => MANY,
            };
        }
        places
    };
    let (was, is) = (places(before, old), places(after, new));
    let once = |place: u32| (place < MANY).then_some(place as usize);
    // The longest row of places that grow in both texts: for each length the one with the least end, and what is before it.
    let mut common: Vec<(usize, usize, Option<usize>)> = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    for at in old.clone() {
        let token = before[at].0 as usize;
        let (Some(_), Some(to)) = (once(was[token]), once(is[token])) else {
            continue;
        };
        let longer = ends.partition_point(|end| common[*end].1 < to);
        let before = longer.checked_sub(1).map(|n| ends[n]);
        common.push((at, to, before));
        match ends.get_mut(longer) {
            Some(end) => *end = common.len() - 1,
            None => ends.push(common.len() - 1),
        }
    }
    let mut row = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some((at, to, before)) = next.map(|n| common[n]) {
        row.push((at, to));
        next = before;
    }
    row.reverse();
    row
}

/// Lines added and removed.
pub(super) fn counts(old: &[u8], new: &[u8]) -> (u64, u64) {
    differences(&split(old), &split(new), false)
        .iter()
        .fold((0, 0), |(added, removed), d| {
            (added + d.new.len() as u64, removed + d.old.len() as u64)
        })
}

/// Adds the hunks of the patch that makes one text the other.
pub(super) fn write_hunks(out: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    let (old, new) = (split(old), split(new));
    let all = differences(&old, &new, true);
    let mut rest = all.as_slice();
    let (mut place, mut looked) = (&[][..], 0);
    while let Some(first) = rest.first() {
        let near = |pair: &[Difference]| pair[1].old.start - pair[0].old.end <= 2 * CONTEXT;
        let (hunk, later) = rest.split_at(1 + rest.windows(2).take_while(|p| near(p)).count());
        rest = later;
        let last = hunk.last().unwrap_or(first);
        let before = first.old.start.min(CONTEXT);
        let after = (old.len() - last.old.end).min(CONTEXT);
        let was = first.old.start - before..last.old.end + after;
        let is = first.new.start - before..last.new.end + after;
        // The last line above that begins with a name tells readers where they are.
        let above = old[looked..was.start].iter();
        let named = |l: &&&[u8]| matches!(l.first(), Some(b'_' | b'$' | b'a'..=b'z' | b'A'..=b'Z'));
        if let Some(line) = above.rev().find(named) {
            place = line[..line.len().min(PLACE_MAX)].trim_ascii_end();
        }
        looked = was.start;
        let head = format!("@@ -{} +{} @@", numbers(&was), numbers(&is));
        out.extend_from_slice(head.as_bytes());
        if !place.is_empty() {
            out.push(b' ');
            out.extend_from_slice(place);
        }
        out.push(b'\n');
        let mut at = was.start;
        for d in hunk {
            write_lines(out, b' ', &old[at..d.old.start]);
            write_lines(out, b'-', &old[d.old.clone()]);
            write_lines(out, b'+', &new[d.new.clone()]);
            at = d.old.end;
        }
        write_lines(out, b' ', &old[at..was.end]);
    }
}

/// Lines as a hunk's head tells them: the first one and how many. Of none the line before them is told.
fn numbers(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        n => format!("{},{n}", lines.start + 1),
    }
}

fn write_lines(out: &mut Vec<u8>, sign: u8, lines: &[&[u8]]) {
    for line in lines {
        out.push(sign);
        out.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            out.push(b'\n');
            out.extend_from_slice(NO_NEWLINE);
        }
    }
}

/// The head of a hunk: where its old lines are, and how many lines there are of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    start: usize,
    /// Old lines.
    pub(super) old: usize,
    /// New lines.
    pub(super) new: usize,
}

impl Head {
    /// Reads `@@ -1,2 +3,4 @@`.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let line = String::from_utf8_lossy(line);
        let mut words = line.trim_end().strip_prefix("@@ ")?.split(' ');
        let mut range = |sign: char| -> Option<(usize, usize)> {
            let range = words.next()?.strip_prefix(sign)?;
            let (start, count) = range.split_once(',').unwrap_or((range, "1"));
            Some((start.parse().ok()?, count.parse().ok()?))
        };
        let ((start, old), (_, new)) = (range('-')?, range('+')?);
        // Of no lines the one before them is told.
        let start = if old == 0 { start } else { start.max(1) - 1 };
        Some(Self { start, old, new })
    }
}

/// What a text is after the hunks of a patch, given as their lines.
///
/// # Errors
/// The number of the first hunk that fits nowhere.
pub(super) fn apply(old: &[u8], hunks: &[&[u8]]) -> Result<Vec<u8>, String> {
    let old = split(old);
    let mut out = Vec::new();
    let (mut done, mut moved, mut tries) = (0, 0_isize, 0);
    let mut lines = hunks;
    let mut number = 0;
    while let Some((head, rest)) = lines.split_first() {
        number += 1;
        let end = rest.iter().position(|l| l.starts_with(b"@@ "));
        let (body, later) = rest.split_at(end.unwrap_or(rest.len()));
        lines = later;
        let fails = || format!("error applying hunk #{number}");
        let head = Head::parse(head).ok_or_else(fails)?;
        let (mut want, mut put) = (Vec::with_capacity(head.old), Vec::with_capacity(head.new));
        for (n, line) in body.iter().enumerate() {
            let text = match line.first() {
                Some(b' ' | b'-' | b'+') => &line[1..],
                Some(b'\\') => continue,
                // An empty line whose blank got lost on the way.
                _ => line,
            };
            let ends = !body.get(n + 1).is_some_and(|l| l.starts_with(b"\\"));
            let text = match text.strip_suffix(b"\n") {
                Some(text) if !ends => text,
                _ => text,
            };
            if !line.starts_with(b"+") {
                want.push(text);
            }
            if !line.starts_with(b"-") {
                put.push(text);
            }
        }
        let expected = head.start.saturating_add_signed(moved);
        let at = find(&old, &want, done, expected, &mut tries).ok_or_else(fails)?;
        moved = at.cast_signed() - head.start.cast_signed();
        old[done..at].iter().for_each(|l| out.extend_from_slice(l));
        put.iter().for_each(|l| out.extend_from_slice(l));
        done = at + want.len();
    }
    old[done..].iter().for_each(|l| out.extend_from_slice(l));
    Ok(out)
}

/// Where those lines stand at or after `from`, the nearest place to `expected`.
fn find(
    lines: &[&[u8]],
    want: &[&[u8]],
    from: usize,
    expected: usize,
    tries: &mut u64,
) -> Option<usize> {
    let last = lines.len().checked_sub(want.len())?;
    if last < from {
        return None;
    }
    let expected = expected.clamp(from, last);
    for distance in 0..=(expected - from).max(last - expected) {
        let before = expected.checked_sub(distance).filter(|at| *at >= from);
        let after = Some(expected + distance).filter(|at| distance > 0 && *at <= last);
        for at in before.into_iter().chain(after) {
            let same = lines[at..].iter().zip(want).take_while(|(a, b)| a == b);
            let same = same.count();
            if same == want.len() {
                return Some(at);
            }
            *tries += 1 + same as u64;
            if *tries > TRIES_MAX {
                return None;
            }
        }
    }
    None
}

/// What becomes of lines that both sides changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contested {
    /// Nothing: there is no answer.
    Refused,
    /// Both stand there between marks.
    Marked,
    /// Ours stay.
    Ours,
    /// Theirs come.
    Theirs,
}

/// Brings together what two sides made of a text. Changes that touch each other are contested, unless they are the same.
/// `None` when some are and that is refused.
pub(super) fn merge(
    base: &[u8],
    ours: &[u8],
    theirs: &[u8],
    contested: Contested,
) -> Option<Vec<u8>> {
    let (base, our, their) = (split(base), split(ours), split(theirs));
    let sides = [
        differences(&base, &our, true),
        differences(&base, &their, true),
    ];
    let mut rest = [sides[0].as_slice(), sides[1].as_slice()];
    // Where the line of a side is that stands for the base's line `done`.
    let mut at = [0_usize; 2];
    let (mut out, mut done) = (Vec::with_capacity(ours.len()), 0);
    let put = |out: &mut Vec<u8>, lines: &[&[u8]]| {
        lines.iter().for_each(|l| out.extend_from_slice(l));
    };
    while let Some(start) = rest.iter().filter_map(|r| Some(r.first()?.old.start)).min() {
        put(&mut out, &base[done..start]);
        at = at.map(|a| a + (start - done));
        let from = at;
        let (mut end, mut changed) = (start, [false; 2]);
        // As long as one of the next changes begins in what there is or just behind it.
        while let Some(side) = (0..2).find(|s| rest[*s].first().is_some_and(|d| d.old.start <= end))
        {
            let Some((next, later)) = rest[side].split_first() else {
                break;
            };
            (rest[side], changed[side]) = (later, true);
            end = end.max(next.old.end);
        }
        // The lines of each side that stand for the base's from `start` to `end`.
        for side in 0..2 {
            let last = sides[side][..sides[side].len() - rest[side].len()].last();
            let (was, is) = last.map_or((0, 0), |d| (d.old.end, d.new.end));
            at[side] = is + (end - was);
        }
        done = end;
        let (a, b) = (&our[from[0]..at[0]], &their[from[1]..at[1]]);
        if !changed[1] || (changed[0] && a == b) {
            put(&mut out, a);
            continue;
        }
        if !changed[0] {
            put(&mut out, b);
            continue;
        }
        let alike = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        put(&mut out, &a[..alike]);
        let (a, b) = (&a[alike..], &b[alike..]);
        let tail = a.iter().rev().zip(b.iter().rev());
        let tail = tail.take_while(|(a, b)| a == b).count();
        let (a, alike) = a.split_at(a.len() - tail);
        let b = &b[..b.len() - tail];
        match contested {
            Contested::Refused => return None,
            Contested::Ours => put(&mut out, a),
            Contested::Theirs => put(&mut out, b),
            Contested::Marked => {
                for (mark, lines) in [("<<<<<<< ours\n", a), ("=======\n", b)] {
                    out.extend_from_slice(mark.as_bytes());
                    put(&mut out, lines);
                    if lines.last().is_some_and(|l| !l.ends_with(b"\n")) {
                        out.push(b'\n');
                    }
                }
                out.extend_from_slice(b">>>>>>> theirs\n");
            }
        }
        put(&mut out, alike);
    }
    put(&mut out, &base[done..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Numbers that look random and are the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }

        fn text(&mut self, lines: u64, words: u64) -> Vec<u8> {
            let mut text = String::new();
            for _ in 0..lines {
                text.push_str(&format!("w{}\n", self.below(words)));
            }
            if self.below(2) == 0 {
                text.pop();
            }
            text.into_bytes()
        }
    }

    fn there_and_back(old: &[u8], new: &[u8]) {
        let mut hunks = Vec::new();
        write_hunks(&mut hunks, old, new);
        let again = apply(old, &split(&hunks)).expect("it fits");
        assert!(again == new, "{}", String::from_utf8_lossy(&hunks));
    }

    #[test]
    fn hunks_make_one_text_the_other() {
        let mut numbers = Numbers(7);
        for _ in 0..2000 {
            let (lines, words) = (numbers.below(20), 1 + numbers.below(12));
            let old = numbers.text(lines, words);
            let lines = numbers.below(20);
            there_and_back(&old, &numbers.text(lines, words));
        }
    }

    #[test]
    fn pieces_hide_no_small_change() {
        let text = |skip: u64, add: u64| {
            let line = |n: u64| match n {
                n if n == skip => String::new(),
                n if n == add => format!("{}\nnew\n}}\n", n / 3),
                n if n % 5 == 0 => "}\n".to_owned(),
                n => format!("{}\n", n / 3 * (n % 2)),
            };
            (0..200_000).map(line).collect::<String>().into_bytes()
        };
        let (old, new) = (text(1_001, 1), text(1, 150_001));
        there_and_back(&old, &new);
        let (added, removed) = counts(&old, &new);
        assert!(added < 9 && removed < 9, "{added} {removed}");
    }

    #[test]
    fn long_texts_that_share_little_take_little_time() {
        let text = |f: &dyn Fn(u64) -> u64| {
            let lines: String = (0..300_000).map(|n| format!("{}\n", f(n))).collect();
            lines.into_bytes()
        };
        let old = text(&|n| n);
        let others = [
            text(&|n| n + 300_000),
            text(&|n| n + (n % 2) * 300_000),
            text(&|n| 299_999 - n),
            text(&|n| (n * 7919) % 300_000),
            Numbers(3).text(300_000, 10),
        ];
        let few = Numbers(9).text(300_000, 10);
        for (old, new) in others.iter().map(|o| (&old, o)).chain([(&few, &others[4])]) {
            let begun = Instant::now();
            let (added, removed) = counts(old, new);
            there_and_back(old, new);
            assert_eq!(
                added + split(old).len() as u64,
                removed + split(new).len() as u64
            );
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{:?}",
                begun.elapsed()
            );
        }
        assert_eq!(counts(&old, &others[0]), (300_000, 300_000));
        assert_eq!(counts(&old, &others[1]), (150_000, 150_000));
    }

    #[test]
    fn hunks_are_found_where_they_moved_to() {
        let patch = split(b"@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n@@ -5 +5,2 @@ there\n-e\n+E\n+F\n");
        let moved = apply(b"x\ny\na\nb\nc\nd\ne\n", &patch).expect("it fits");
        assert_eq!(moved, b"x\ny\na\nB\nc\nd\nE\nF\n");
        let none = apply(b"a\nb\nc\n", &patch).expect_err("the second is not there");
        assert_eq!(none, "error applying hunk #2");
        assert_eq!(
            apply(b"", &split(b"@@ -0,0 +1 @@\n+a\n")),
            Ok(b"a\n".to_vec())
        );
        assert!(apply(b"a", &split(b"@@ -1 +1 @@\n-a\n+b\n")).is_err());
    }

    #[test]
    fn two_sides_are_brought_together() {
        let base = b"1\n2\n3\n4\n5\n6\n";
        let text =
            |merged: Option<Vec<u8>>| merged.map(|m| String::from_utf8_lossy(&m).into_owned());
        let both = |ours: &str, theirs: &str, how| {
            text(merge(base, ours.as_bytes(), theirs.as_bytes(), how))
        };
        let refused = |ours, theirs| both(ours, theirs, Contested::Refused);
        assert_eq!(
            refused("0\n1\n2\n3\n4\n5\n6\n", "1\n2\n4\n5\n6").as_deref(),
            Some("0\n1\n2\n4\n5\n6")
        );
        assert_eq!(
            refused("1\nx\n3\n4\n5\n6\n", "1\nx\n3\n4\n5\n").as_deref(),
            Some("1\nx\n3\n4\n5\n")
        );
        let (ours, theirs) = ("1\nb\n3\n4\nfive\n6\n", "1\nB\n3\n4\n5\n6\n7\n");
        assert_eq!(refused(ours, theirs), None);
        assert_eq!(refused("1\nb\n3\n4\n5\n6\n", "1\n2\nc\n4\n5\n6\n"), None);
        assert_eq!(
            both(ours, theirs, Contested::Ours).as_deref(),
            Some("1\nb\n3\n4\nfive\n6\n7\n")
        );
        assert_eq!(
            both(ours, theirs, Contested::Theirs).as_deref(),
            Some("1\nB\n3\n4\nfive\n6\n7\n")
        );
        assert_eq!(
            both("a", "1\n2\n3\n4\n5\n6\n", Contested::Refused).as_deref(),
            Some("a")
        );
        assert_eq!(
            text(merge(b"", b"x\na", b"x\nb\nc\n", Contested::Marked)).as_deref(),
            Some("x\n<<<<<<< ours\na\n=======\nb\nc\n>>>>>>> theirs\n")
        );
    }

    #[test]
    fn a_side_that_changed_nothing_has_no_say() {
        let mut numbers = Numbers(11);
        for _ in 0..500 {
            let base = numbers.text(12, 5);
            let one = numbers.text(12, 5);
            for (ours, theirs) in [(&base, &one), (&one, &base), (&one, &one)] {
                assert_eq!(
                    merge(&base, ours, theirs, Contested::Refused).as_ref(),
                    Some(&one)
                );
            }
            let other = numbers.text(12, 5);
            for how in [Contested::Ours, Contested::Theirs, Contested::Marked] {
                assert!(merge(&base, &one, &other, how).is_some());
            }
        }
    }
}
