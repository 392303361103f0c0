//! The example program against the scripted cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod fake;
#[path = "../examples/tour.rs"]
#[allow(dead_code, reason = "its `main` is for people")]
mod tour;

use fake::Fake;

#[tokio::test]
async fn the_tour_of_the_library_does_what_it_shows() {
    let fake = Fake::start(3);
    tour::tour(fake.endpoints()).await.unwrap();
    assert!(fake.applied() > 10);
}
