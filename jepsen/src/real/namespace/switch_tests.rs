//! The switch on plain packets: no device, no clock of its own.

use super::{super::packet::invented, *};

const SUBNETS: Subnets = Subnets(3);
const THERE: Link = Link { from: End::Node(1), to: End::Node(2) };
const BACK: Link = Link { from: End::Node(2), to: End::Node(1) };

fn packet_on(plane: Plane, link: Link, flags: u8) -> Vec<u8> {
    invented(SUBNETS.address(plane, link.from), SUBNETS.address(plane, link.to), flags, 60)
}

fn send(switch: &mut Switch, link: Link, now: Instant) -> Onward {
    switch.take(link.from, &packet_on(Plane::Attacked, link, 0x10), now)
}

/// Sends one and hands it over at once if it may go on.
fn pass(switch: &mut Switch, link: Link, now: Instant) -> bool {
    match send(switch, link, now) {
        Onward::Now(passage) => {
            switch.arrived(&passage);
            true
        }
        _ => false,
    }
}

/// Everything due by then, handed over.
fn arrivals(switch: &mut Switch, now: Instant) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some((passage, _)) = switch.due(now) {
        switch.arrived(&passage);
        numbers.push(passage.number);
    }
    numbers
}

fn switch() -> (Switch, Instant) {
    (Switch::new(SUBNETS, 3, 7), Instant::now())
}

#[test]
fn a_calm_link_passes_at_once_and_counts_what_arrived() {
    let (mut switch, now) = switch();
    let Onward::Now(passage) = send(&mut switch, THERE, now) else { panic!("it waits") };
    assert_eq!(passage.to, End::Node(2));
    assert_eq!(switch.observed()[&THERE].passed_bytes, 0, "it has not arrived yet");
    switch.arrived(&passage);
    assert_eq!(switch.observed()[&THERE], Carried { passed_bytes: 100, ..Carried::default() });
    let Onward::Now(passage) = send(&mut switch, THERE, now) else { panic!("it waits") };
    switch.lost(&passage);
    assert_eq!(switch.observed()[&THERE].dropped_bytes, 100);
}

#[test]
fn a_cut_drops_one_direction_until_mended_as_often() {
    let (mut switch, now) = switch();
    switch.cut(THERE, true);
    switch.cut(THERE, true);
    assert!(!pass(&mut switch, THERE, now) && pass(&mut switch, BACK, now));
    switch.cut(THERE, false);
    assert!(!pass(&mut switch, THERE, now), "cut twice, mended once");
    switch.cut(THERE, false);
    assert!(pass(&mut switch, THERE, now));
    let observed = switch.observed();
    assert_eq!(observed[&THERE], Carried { passed_bytes: 100, dropped_bytes: 200, ..Carried::default() });
    assert_eq!(observed[&BACK], Carried { passed_bytes: 100, ..Carried::default() });
    switch.cut(THERE, true);
    switch.heal();
    assert!(pass(&mut switch, THERE, now));
}

#[test]
fn what_is_under_way_when_its_link_is_cut_never_arrives() {
    let (mut switch, now) = switch();
    let delay = Duration::from_millis(40);
    switch.degrade(THERE, Weather { delay, ..Weather::default() });
    assert_eq!(send(&mut switch, THERE, now), Onward::Later { is_next: true });
    assert_eq!(send(&mut switch, THERE, now + delay / 2), Onward::Later { is_next: false });
    assert_eq!(switch.due(now + delay / 2), None, "nothing is early");
    assert_eq!(arrivals(&mut switch, now + delay), [1]);
    switch.cut(THERE, true);
    assert!(arrivals(&mut switch, now + delay * 2).is_empty());
    let carried = switch.observed()[&THERE];
    assert_eq!((carried.passed_bytes, carried.dropped_bytes, carried.disturbed), (100, 100, 2));
}

#[test]
fn a_share_is_lost_and_the_same_one_for_the_same_seed() {
    let run = |seed| {
        let (mut switch, now) = (Switch::new(SUBNETS, 3, seed), Instant::now());
        switch.degrade(THERE, Weather { loss_percent: 20.0, ..Weather::default() });
        (0..1_000).map(|_| pass(&mut switch, THERE, now)).collect::<Vec<_>>()
    };
    let lost = run(1).iter().filter(|passed| !**passed).count();
    assert!((150..250).contains(&lost), "{lost} of 1000");
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn some_are_doubled_and_both_arrive() {
    let (mut switch, now) = switch();
    switch.degrade(THERE, Weather { duplicate_percent: 100.0, ..Weather::default() });
    assert_eq!(send(&mut switch, THERE, now), Onward::Later { is_next: true });
    assert_eq!(arrivals(&mut switch, now).len(), 2);
    let carried = switch.observed()[&THERE];
    assert_eq!((carried.passed_bytes, carried.duplicated, carried.overtaken), (200, 1, 0));
}

#[test]
fn held_packets_are_overtaken_and_only_those_that_were_are_counted() {
    let (mut switch, now) = switch();
    switch.degrade(THERE, Weather { reorder_percent: 30.0, ..Weather::default() });
    let mut order = Vec::new();
    for step in 0..200 {
        let now = now + Duration::from_millis(step);
        order.extend(arrivals(&mut switch, now));
        if let Onward::Now(passage) = send(&mut switch, THERE, now) {
            switch.arrived(&passage);
            order.push(passage.number);
        }
    }
    order.extend(arrivals(&mut switch, now + Duration::from_secs(1)));
    assert_eq!(order.len(), 200, "nothing is lost");
    let overtaken = order.iter().enumerate().filter(|(place, number)| order[..*place].iter().any(|it| it > number));
    let overtaken = overtaken.count() as u64;
    assert!((20..100).contains(&overtaken), "{overtaken} of 200");
    assert_eq!(switch.observed()[&THERE].overtaken, overtaken);
}

#[test]
fn who_looks_from_outside_passes_every_cut_and_is_not_counted() {
    let (mut switch, now) = switch();
    let link = Link { from: End::Clients, to: End::Node(1) };
    switch.cut(link, true);
    switch.degrade(link, Weather { loss_percent: 100.0, ..Weather::default() });
    assert!(matches!(switch.take(link.from, &packet_on(Plane::Watched, link, 0x10), now), Onward::Now(_)));
    assert!(!pass(&mut switch, link, now));
    assert_eq!(switch.observed()[&link], Carried { dropped_bytes: 100, ..Carried::default() });
}

#[test]
fn what_lies_about_its_sender_or_leads_nowhere_is_nobodys() {
    let (mut switch, now) = switch();
    let packet = packet_on(Plane::Attacked, THERE, 0x10);
    assert_eq!(switch.take(End::Node(3), &packet, now), Onward::Gone);
    assert_eq!(switch.take(End::Node(1), &packet[..19], now), Onward::Gone);
    let away = invented(SUBNETS.address(Plane::Attacked, End::Node(1)), [224, 0, 0, 22].into(), 0, 4);
    assert_eq!(switch.take(End::Node(1), &away, now), Onward::Gone);
    let unknown = packet_on(Plane::Attacked, Link { from: End::Node(1), to: End::Node(9) }, 0);
    assert_eq!(switch.take(End::Node(1), &unknown, now), Onward::Gone);
    assert!(switch.observed().values().all(|carried| *carried == Carried::default()));
}

#[test]
fn resets_that_arrive_are_counted() {
    let (mut switch, now) = switch();
    let Onward::Now(passage) = switch.take(BACK.from, &packet_on(Plane::Attacked, BACK, 0x14), now) else {
        panic!("it waits");
    };
    switch.arrived(&passage);
    assert_eq!(switch.observed()[&BACK].resets, 1);
}

#[test]
fn a_full_queue_drops() {
    let (mut switch, now) = switch();
    switch.degrade(THERE, Weather { delay: Duration::from_secs(1), ..Weather::default() });
    for _ in 0..UNDER_WAY_MAX {
        assert_ne!(send(&mut switch, THERE, now), Onward::Gone);
    }
    assert_eq!(send(&mut switch, THERE, now), Onward::Gone);
    assert_eq!(switch.observed()[&THERE].dropped_bytes, 100);
}
