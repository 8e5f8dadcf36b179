//! What an app's database and user are called.

use doorbell_config::name::AppId;
use ring::digest;

/// Bytes of a name in PostgreSQL, which cuts off more without a word.
pub(super) const MOST: usize = 63;
/// Bytes of a user's name in MySQL; and of a database's, which has 64 in a grant, where each `_` counts twice.
pub(super) const MOST_IN_MYSQL: usize = 32;

/// Characters of the hash, 5 bits each.
const HASHED: usize = 16;

/// The name of this app's database or user, of no more bytes than this: `app_` and the id. An id with a `-`,
/// for which many programs want quotes, or too long a one has its hash behind it, and begins otherwise:
/// so no other app has this name, whatever its id.
pub(super) fn of(app: &AppId, most: usize) -> String {
    let id = app.app_str();
    let plain = format!("app_{id}");
    if plain.len() <= most && !id.contains('-') {
        return plain;
    }
    let readable: String = id
        .chars()
        .take(most - "appx__".len() - HASHED)
        .map(|c| if c == '-' { '_' } else { c })
        .collect();
    format!("appx_{readable}_{}", hash(id))
}

fn hash(id: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = digest::digest(&digest::SHA256, id.as_bytes());
    let first = digest.as_ref().iter().take(HASHED * 5 / 8);
    let bits = first.fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let letter = |at: usize| char::from(LETTERS[(bits >> (5 * at) & 31) as usize]);
    (0..HASHED).rev().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str, most: usize) -> String {
        of(&AppId::parse(id).unwrap(), most)
    }

    #[test]
    fn plain_ids_are_plain_names() {
        assert_eq!(name("blog", MOST), "app_blog");
        assert_eq!(name("1_a", MOST_IN_MYSQL), "app_1_a");
    }

    #[test]
    fn other_ids_have_names_that_no_plain_one_has() {
        let dashed = name("my-blog", MOST);
        assert!(dashed.starts_with("appx_my_blog_") && dashed.len() == 29, "{dashed}");
        assert_ne!(dashed, name("my_blog", MOST));
        assert_ne!(dashed, name("my--blog", MOST));
        let posing = dashed.trim_start_matches("appx_");
        assert_ne!(dashed, name(posing, MOST));
    }

    #[test]
    fn no_name_is_too_long_or_needs_quotes() {
        let (long, longer) = ("a".repeat(62), "a".repeat(63));
        for most in [MOST, MOST_IN_MYSQL] {
            assert_ne!(name(&long, most), name(&longer, most));
            for id in [&long, &longer, "a-b", "a-very-long-name-of-an-app-that-does-little"] {
                let name = name(id, most);
                assert!(name.len() <= most, "{name}");
                let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                assert!(name.chars().all(is_plain), "{name}");
            }
        }
    }

    #[test]
    fn replicas_share_the_database_of_their_app() {
        let app = AppId::parse("blog").unwrap();
        assert_eq!(of(&app.replica(2), MOST), "app_blog");
    }
}
