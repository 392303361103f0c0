//! Whatever nodes say about the metadata reads back, and nothing makes reading panic.

use super::{
    super::codec::tests::{any_images, any_level, any_node_state, any_origin, any_row},
    *,
};
use crate::metadata::{Behaviour, Ending, Foreseen, KeyspaceWish, OperatorWish, Row, RowKey};
use kvorum_api::{KeyspaceId, Mode, ShardId, Sharding};
use kvorum_storage::spoil::raw_and_spoiled;
use proptest::{collection::vec, option, prelude::*};

fn any_wish() -> impl Strategy<Value = KeyspaceWish> {
    let shape = (option::of(any::<bool>()), option::of(any::<bool>()), any::<Option<u32>>(), any::<Option<u32>>());
    let points = vec(vec(any::<u8>(), 0..5).prop_map(Bytes::from), 0..4);
    let rest = (option::of(any_level()), any::<Option<u64>>(), option::of(any_images()), any::<Option<bool>>());
    (shape, points, rest).prop_map(|((mode, sharding, shards, replicas), split_at, rest)| KeyspaceWish {
        mode: mode.map(|is_cp| if is_cp { Mode::Cp } else { Mode::Ap }),
        sharding: sharding.map(|is_hash| if is_hash { Sharding::Hash } else { Sharding::Range }),
        shards,
        split_at,
        replicas,
        read_level: rest.0,
        value_bytes_max: rest.1,
        images: rest.2,
        has_leases: rest.3,
    })
}

fn any_operator_wish() -> impl Strategy<Value = OperatorWish> {
    let node = || any::<u64>().prop_map(NodeId);
    prop_oneof![
        (node(), node()).prop_map(|(from, to)| OperatorWish::Move { from, to }),
        node().prop_map(OperatorWish::Add),
        node().prop_map(OperatorWish::Remove),
        node().prop_map(OperatorWish::Lead),
    ]
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![Just(Ending::Done), Just(Ending::Cancelled), ".{0,5}".prop_map(Ending::Failed)]
}

fn any_command() -> impl Strategy<Value = MetadataCommand> {
    let place = (".{0,5}", ".{0,5}", ".{0,5}");
    prop_oneof![
        (".{0,5}", any_wish()).prop_map(|(name, wish)| MetadataCommand::CreateKeyspace { name, wish }),
        (".{0,5}", any_wish()).prop_map(|(name, wish)| MetadataCommand::AlterKeyspace { name, wish }),
        ".{0,5}".prop_map(|name| MetadataCommand::DropKeyspace { name }),
        (any::<u128>(), place).prop_map(|(directory, (client, peer, zone))| MetadataCommand::Join {
            directory,
            client,
            peer,
            zone
        }),
        (any::<u64>(), place, any::<u32>(), ".{0,5}").prop_map(|(node, (client, peer, zone), behaviour, build)| {
            MetadataCommand::Announce { node: NodeId(node), client, peer, zone, behaviour: Behaviour(behaviour), build }
        }),
        (any::<u64>(), any_operator_wish(), any_origin(), ".{0,5}").prop_map(|(shard, wish, origin, cause)| {
            MetadataCommand::Operate { shard: ShardId(shard), wish, origin, cause }
        }),
        any::<u64>().prop_map(|id| MetadataCommand::CancelOperator { operator: OperatorId(id) }),
        (any::<u64>(), any_ending())
            .prop_map(|(id, ending)| MetadataCommand::OperatorEnded { operator: OperatorId(id), ending }),
        (any::<u64>(), any_node_state())
            .prop_map(|(node, state)| MetadataCommand::SetNodeState { node: NodeId(node), state }),
        any::<u32>().prop_map(|behaviour| MetadataCommand::RaiseBehaviour {
            behaviour: Some(behaviour).filter(|behaviour| *behaviour > 0).map(Behaviour),
        }),
        vec(any::<u64>().prop_map(ShardId), 0..5).prop_map(|shards| MetadataCommand::ShardsReady { shards }),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let unavailable = (".{0,5}", any::<bool>()).prop_map(|(why, is_known)| AdminError::Unavailable {
        why,
        effect: if is_known { Effect::None } else { Effect::Unknown },
    });
    let error = prop_oneof![
        (0..FIELDS.len(), ".{0,5}").prop_map(|(field, problem)| AdminError::Invalid { field: FIELDS[field], problem }),
        ".{0,5}".prop_map(|what| AdminError::Exists { what }),
        ".{0,5}".prop_map(|what| AdminError::NotFound { what }),
        Just(AdminError::WrongKey),
        unavailable,
    ];
    let reply = (any::<u64>(), any::<Option<u32>>(), any::<Option<u64>>()).prop_map(|(revision, keyspace, node)| {
        let operator = node.map(OperatorId);
        MetadataReply { revision, keyspace: keyspace.map(KeyspaceId), node: node.map(NodeId), operator }
    });
    let foreseen = (any::<u64>(), any_operator_wish(), any::<Option<u64>>(), any::<(u32, u32)>()).prop_map(
        |(shard, wish, bytes, (spare_before, spare_meanwhile))| Foreseen {
            shard: ShardId(shard),
            wish,
            bytes,
            spare_before,
            spare_meanwhile,
        },
    );
    prop_oneof![
        Just(Answer::Leads),
        any::<Option<u64>>().prop_map(|leader| Answer::Follows(leader.map(NodeId))),
        reply.prop_map(|reply| Answer::Verdict(Verdict::Done(reply))),
        error.prop_map(|error| Answer::Verdict(Verdict::Refused(error))),
        ".{0,5}".prop_map(|why| Answer::Verdict(Verdict::NotDone(why))),
        ".{0,5}".prop_map(|why| Answer::Verdict(Verdict::Unknown(why))),
        (vec(foreseen, 0..4), vec(".{0,5}", 0..3))
            .prop_map(|(moves, held_up)| Answer::Forecast(Forecast { moves, held_up })),
        vec(any::<(u64, u64)>(), 0..5).prop_map(|told| {
            Answer::Figures(told.into_iter().map(|(shard, bytes)| (ShardId(shard), bytes)).collect())
        }),
    ]
}

fn any_news() -> impl Strategy<Value = News> {
    let edit = (any_row(), any::<bool>())
        .prop_map(|(row, is_put)| if is_put { RowEdit::Put(row) } else { RowEdit::Remove(row.key()) });
    let page = (any::<u64>(), any::<u64>(), vec(any::<u8>(), 0..9));
    prop_oneof![
        Just(News::Nothing),
        (any::<u64>(), vec(edit, 0..6)).prop_map(|(revision, edits)| News::Edits(revision, edits)),
        page.prop_map(|(revision, total, bytes)| News::Page { revision, total, bytes: Bytes::from(bytes) }),
    ]
}

proptest! {
    #[test]
    fn what_is_asked_reads_back(command in any_command(), ms in any::<u32>()) {
        let ask = Ask::Do(command, Duration::from_millis(ms.into()));
        let Ask::Do(command, _) = ask.clone() else { unreachable!("just made") };
        prop_assert_eq!(Ask::decode(ask.encode()).unwrap(), ask);
        for ask in [Ask::Foresee(command), Ask::WhoLeads, Ask::Figures] {
            prop_assert_eq!(Ask::decode(ask.encode()).unwrap(), ask);
        }
    }

    #[test]
    fn what_is_answered_reads_back(answer in any_answer()) {
        prop_assert_eq!(Answer::decode(answer.encode()).unwrap(), answer);
    }

    #[test]
    fn what_is_followed_reads_back(
        revision in any::<u64>(), serial in any::<u64>(), page in any::<Option<(u64, u64)>>()
    ) {
        let follow = Follow { revision, serial, page };
        prop_assert_eq!(Follow::decode(follow.encode()).unwrap(), follow);
    }

    #[test]
    fn news_reads_back(news in any_news()) {
        prop_assert_eq!(News::decode(news.encode()).unwrap(), news);
    }
}

/// Also a sound first byte and a kind that is there, with anything behind.
#[test]
fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
    let wish =
        KeyspaceWish { mode: Some(Mode::Cp), shards: Some(3), split_at: vec!["m".into()], ..KeyspaceWish::default() };
    let join =
        MetadataCommand::Join { directory: 1, client: "client".into(), peer: "peer".into(), zone: "zone".into() };
    let reply = MetadataReply { revision: 1, keyspace: Some(KeyspaceId(2)), node: None, operator: None };
    let invalid = AdminError::Invalid { field: FIELDS[0], problem: "problem".into() };
    let sound = [
        Ask::Do(MetadataCommand::CreateKeyspace { name: "name".into(), wish }, Duration::from_millis(7)).encode(),
        Ask::Do(join, Duration::from_millis(7)).encode(),
        Answer::Verdict(Verdict::Done(reply)).encode(),
        Answer::Verdict(Verdict::Refused(invalid)).encode(),
        Follow { revision: 2, serial: 3, page: Some((4, 5)) }.encode(),
        News::Edits(6, vec![RowEdit::Put(Row::Metadata(Vec::new())), RowEdit::Remove(RowKey::Counters)]).encode(),
        News::Page { revision: 1, total: 2, bytes: Bytes::from_static(b"x") }.encode(),
    ];
    bolero::check!().with_iterations(2_000).with_max_len(200).for_each(|input: &[u8]| {
        let of_a_kind = Bytes::from([&[FORMAT, input.len() as u8 % 7], input].concat());
        for bytes in sound.iter().flat_map(|sound| raw_and_spoiled(sound, input)).chain([of_a_kind]) {
            if let Ok(ask) = Ask::decode(bytes.clone()) {
                assert_eq!(Ask::decode(ask.encode()).unwrap(), ask);
            }
            if let Ok(answer) = Answer::decode(bytes.clone()) {
                assert_eq!(Answer::decode(answer.encode()).unwrap(), answer);
            }
            if let Ok(follow) = Follow::decode(bytes.clone()) {
                assert_eq!(follow.encode(), bytes);
            }
            if let Ok(news) = News::decode(bytes) {
                assert_eq!(News::decode(news.encode()).unwrap(), news);
            }
        }
    });
}

/// The bytes of format 2, for ever.
#[test]
fn format_2_is_what_it_was() {
    let drop = Ask::Do(MetadataCommand::DropKeyspace { name: "k".to_owned() }, Duration::from_millis(258));
    assert_eq!(drop.encode(), &[2, 1, 0, 0, 1, 2, 3, 0, 0, 0, 1, b'k'][..]);
    let follows = Answer::Follows(Some(NodeId(7)));
    assert_eq!(follows.encode(), &[2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 7][..]);
    let follow = Follow { revision: 2, serial: 3, page: None };
    assert_eq!(follow.encode(), &[2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0][..]);
    let page = News::Page { revision: 1, total: 2, bytes: Bytes::from_static(b"x") };
    let expected = [2, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, b'x'];
    assert_eq!(page.encode(), &expected[..]);
}
