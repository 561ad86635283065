//! What an image will be made of, decided from what is known of its layers. Pure.

use oci::{Digest, digest::chain_id, pack::Times};

/// Where a layer of the image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// The image's own layer of this number, lowest first: its blob exists somewhere.
    Base(usize),
    /// A directory of the store, by its number in the stack, lowest first: to be packed.
    Own(usize),
}

/// The digest of a tar with nothing in it: layers that change nothing leave no directory behind.
const EMPTY_TAR: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// Which layers are the base image's and which are new. `chains` says for each directory (lowest first) which chain of an
/// image's layers ends with it; `diff_ids` are the base image's.
pub(super) fn pieces(chains: &[Option<Digest>], diff_ids: &[Digest]) -> Vec<Piece> {
    let image: Vec<Option<Digest>> = (1..=diff_ids.len())
        .map(|n| chain_id(diff_ids.get(..n).unwrap_or_default()))
        .collect();
    let matched = chains.iter().enumerate().rev().find_map(|(at, chain)| {
        let chain = chain.as_ref()?;
        let base = image.iter().position(|c| c.as_ref() == Some(chain))?;
        Some((at + 1, base + 1))
    });
    let (directories, mut layers) = matched.unwrap_or((0, 0));
    while diff_ids
        .get(layers)
        .is_some_and(|d| d.to_string() == EMPTY_TAR)
    {
        layers += 1;
    }
    (0..layers)
        .map(Piece::Base)
        .chain((directories..chains.len()).map(Piece::Own))
        .collect()
}

/// The times of a packed layer. With `epoch` (`SOURCE_DATE_EPOCH`) nothing is later; what the engine itself wrote at or after
/// `begun` is stamped with that, else with the time of the image it lies on, else with 1970: its clock is no input.
pub(super) fn times(epoch: Option<i64>, base: Option<i64>, begun: Option<i64>) -> Times {
    Times {
        latest: epoch,
        written: begun.map(|begun| (begun, epoch.or(base).unwrap_or(0))),
    }
}

/// Reads `SOURCE_DATE_EPOCH`.
pub(super) fn epoch(text: &str) -> Option<i64> {
    text.trim().parse().ok().filter(|seconds| *seconds >= 0)
}

/// The base image's history, if it accounts for exactly so many layers.
pub(super) fn kept_history(
    history: &[serde_json::Value],
    layers: usize,
) -> Option<&[serde_json::Value]> {
    let filled = history
        .iter()
        .filter(|entry| {
            entry
                .get("empty_layer")
                .and_then(serde_json::Value::as_bool)
                != Some(true)
        })
        .count();
    (filled == layers).then_some(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(names: &[&str]) -> Vec<Digest> {
        names.iter().map(|n| Digest::of(n.as_bytes())).collect()
    }

    #[test]
    fn layers_of_the_base_are_recognised() {
        let ids = digests(&["a", "b"]);
        let (a, b) = (chain_id(&ids[..1]), chain_id(&ids));
        use Piece::{Base, Own};
        assert_eq!(pieces(&[a, b, None], &ids), [Base(0), Base(1), Own(2)]);
        assert_eq!(
            pieces(&[a, None], &ids),
            [Base(0), Own(1)],
            "squashed above the first"
        );
        assert_eq!(pieces(&[None, None], &ids), [Own(0), Own(1)]);
        assert_eq!(
            pieces(&[b, None], &ids),
            [Base(0), Base(1), Own(1)],
            "the first changed nothing"
        );
        assert_eq!(pieces(&[None], &[]), [Own(0)], "no base");
        let empty = EMPTY_TAR.parse().unwrap();
        assert_eq!(pieces(&[a], &[ids[0], empty]), [Base(0), Base(1)]);
    }

    #[test]
    fn clocks_are_no_input() {
        assert_eq!(times(None, None, None), Times::default());
        assert_eq!(times(None, Some(7), Some(100)).written, Some((100, 7)));
        assert_eq!(times(Some(5), Some(7), Some(100)).written, Some((100, 5)));
        assert_eq!(times(Some(5), None, None).latest, Some(5));
        assert_eq!(epoch(" 12 "), Some(12));
        assert_eq!(epoch("-1"), None);
    }

    #[test]
    fn a_history_is_kept_when_it_fits() {
        let history = [
            serde_json::json!({}),
            serde_json::json!({"empty_layer": true}),
        ];
        assert!(kept_history(&history, 1).is_some());
        assert!(kept_history(&history, 2).is_none());
    }
}
