//! The few tools for librdkafka's C interface: owned pointers and texts.

use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;

/// A librdkafka object that is destroyed with this value.
pub(crate) struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

// SAFETY: librdkafka's objects are bound to no thread; the queues that are shared are made for it.
unsafe impl<T> Send for Owned<T> {}

impl<T> Owned<T> {
    /// `None` for a null pointer.
    ///
    /// # Safety
    /// `pointer` is null, or an object that nobody else destroys and that `destroy` is right for.
    pub(crate) unsafe fn new(
        pointer: *mut T,
        destroy: unsafe extern "C" fn(*mut T),
    ) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, destroy })
    }

    pub(crate) fn pointer(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by `new` this is the only owner, and `destroy` is right for it.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// Text of librdkafka's; empty for null.
///
/// # Safety
/// `text` is null or a C string that lives during the call.
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a C string by this function's contract.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// # Errors
/// [`Error::Invalid`] for a text with a null character in it.
pub(crate) fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Invalid {
        what: what.to_owned(),
        reason: "a null character is no part of a name or value".to_owned(),
    })
}
