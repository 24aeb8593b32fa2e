//! The bytes of an aggregate's state: fixed widths, little endian, texts with their length in front.

/// What is left to be read; every read gives `None` where the bytes end too early.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn int(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn uint(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A double that is a number.
    pub(super) fn double(&mut self) -> Option<f64> {
        let double = f64::from_bits(self.uint()?);
        double.is_finite().then_some(double)
    }

    pub(super) fn count(&mut self) -> Option<usize> {
        self.array()
            .map(u32::from_le_bytes)
            .and_then(|count| usize::try_from(count).ok())
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.count()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// So many of what `one` reads.
    pub(super) fn list<T, C: FromIterator<T>>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<C> {
        let count = self.count()?;
        (0..count).map(|_| one(self)).collect()
    }
}

/// Counts and lengths: what is kept is far below 4 GiB.
pub(super) fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend(text.as_bytes());
}
