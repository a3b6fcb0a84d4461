//! The world by itself: stories as timelines, and random commands that must not break it.

mod random;
mod stories;
