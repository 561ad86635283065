//! Where blobs go and come from.
