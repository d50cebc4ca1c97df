//! Plans held against the model world: whatever happens in whatever order, the world's checks hold, and when
//! nothing happens any more, everything comes to rest with every pod served and nothing left over.

use std::collections::BTreeMap;

use kuryr_api::kuryrnode::Mode;
use kuryr_types::PortId;
use proptest::prelude::*;

use super::{
    model::{Fault, World},
    model_trunk::Segments,
    targets::Rule,
};
use crate::ownership::ListedPort;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Event {
    TimePasses(u64),
    PodComes,
    PodGoes(usize),
    PodEnds(usize),
    PodRestarts(usize),
    LeaderActs(Fault),
    LeaderLists,
    LeaderHears,
    LeaderChanges,
    FormerLeaderPatches,
    LateCallArrives(bool),
    AgentLooks,
    AgentClaims,
    AgentReleases,
    AgentReports,
    AgentLosesCheckpoint { reimaged: bool },
    PortGetsStuck(usize),
    GroupsChange,
    SomebodyMeddles(usize, bool),
    RecordIsLost,
    NodeGoes,
    NodeComes,
    LabelChanges(Option<Mode>),
    OthersUseVlan(u16),
    OthersLeaveVlan(u16),
    PortIsTakenOff(usize),
    PortIsMoved(usize),
    TrunkIsMadeAnew,
    ParentTurns(bool),
    PortStaysDown(usize),
    OthersAddPair(u8),
    OthersDropPairs,
    PairIsTakenOff(usize),
    PairsAreBounded(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::Late),
        1 => Just(Fault::HalfDone),
    ];
    prop_oneof![
        6 => (1..40u64).prop_map(Event::TimePasses),
        8 => Just(Event::PodComes),
        5 => any::<usize>().prop_map(Event::PodGoes),
        1 => any::<usize>().prop_map(Event::PodEnds),
        2 => any::<usize>().prop_map(Event::PodRestarts),
        20 => fault.prop_map(Event::LeaderActs),
        4 => Just(Event::LeaderLists),
        8 => Just(Event::LeaderHears),
        1 => Just(Event::LeaderChanges),
        1 => Just(Event::FormerLeaderPatches),
        2 => any::<bool>().prop_map(Event::LateCallArrives),
        10 => Just(Event::AgentLooks),
        8 => Just(Event::AgentClaims),
        6 => Just(Event::AgentReleases),
        10 => Just(Event::AgentReports),
        1 => any::<bool>().prop_map(|reimaged| Event::AgentLosesCheckpoint { reimaged }),
        1 => any::<usize>().prop_map(Event::PortGetsStuck),
        1 => Just(Event::GroupsChange),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(number, breaks)| Event::SomebodyMeddles(number, breaks)),
        1 => Just(Event::RecordIsLost),
        1 => Just(Event::NodeGoes),
        2 => Just(Event::NodeComes),
        1 => proptest::option::of(prop_oneof![Just(Mode::Ovs), Just(Mode::NestedVlan), Just(Mode::NestedMacvlan)])
            .prop_map(Event::LabelChanges),
        3 => (98..140u16).prop_map(Event::OthersUseVlan),
        1 => (98..140u16).prop_map(Event::OthersLeaveVlan),
        1 => any::<usize>().prop_map(Event::PortIsTakenOff),
        1 => any::<usize>().prop_map(Event::PortIsMoved),
        1 => Just(Event::TrunkIsMadeAnew),
        1 => any::<bool>().prop_map(Event::ParentTurns),
        1 => any::<usize>().prop_map(Event::PortStaysDown),
        2 => any::<u8>().prop_map(Event::OthersAddPair),
        1 => Just(Event::OthersDropPairs),
        4 => any::<usize>().prop_map(Event::PairIsTakenOff),
        1 => (0..20usize).prop_map(Event::PairsAreBounded),
    ]
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::TimePasses(time) => world.pass(time),
        Event::PodComes => world.make_pod(),
        Event::PodGoes(number) => {
            if let Some(identity) = world.pod_number(number) {
                world.delete_pod(&identity);
            }
        }
        Event::PodEnds(number) => {
            if let Some(identity) = world.pod_number(number) {
                world.end_pod(&identity);
            }
        }
        Event::PodRestarts(number) => {
            if let Some(identity) = world.pod_number(number) {
                world.pod_restarts(&identity);
            }
        }
        Event::LeaderActs(fault) => {
            world.reconcile(fault);
        }
        Event::LeaderLists => world.leader_lists(),
        Event::LeaderHears => world.leader_hears_status(),
        Event::LeaderChanges => world.change_leader(),
        Event::FormerLeaderPatches => world.former_leader_patches(),
        Event::LateCallArrives(again) => world.late_call_arrives(again),
        Event::AgentLooks => world.agent_looks(),
        Event::AgentClaims => world.agent_claims(),
        Event::AgentReleases => world.agent_releases(),
        Event::AgentReports => world.agent_reports(),
        Event::AgentLosesCheckpoint { reimaged } => world.agent_loses_checkpoint(reimaged),
        Event::PortGetsStuck(number) => world.agent_finds_stuck(number),
        Event::GroupsChange => world.group = if world.group == "group" { "other" } else { "group" },
        Event::SomebodyMeddles(number, breaks) => world.meddle(number, breaks),
        Event::RecordIsLost => world.lose_record(),
        Event::NodeGoes => world.delete_node(),
        Event::NodeComes => world.make_node(),
        Event::LabelChanges(label) => world.change_label(label),
        Event::OthersUseVlan(vlan) => world.meddle_with_trunk(|trunks, _| trunks.others_use(vlan)),
        Event::OthersLeaveVlan(vlan) => world.meddle_with_trunk(|trunks, _| trunks.others_leave(vlan)),
        Event::PortIsTakenOff(number) => meddle(world, number, Segments::take_off),
        Event::PortIsMoved(number) => meddle(world, number, Segments::move_elsewhere),
        Event::TrunkIsMadeAnew => world.meddle_with_trunk(Segments::make_anew),
        Event::ParentTurns(active) => world.meddle_with_trunk(|trunks, ports| trunks.turn(active, ports)),
        Event::PortStaysDown(number) => meddle(world, number, Segments::break_down),
        Event::OthersAddPair(last) => world.pairs.others_add(last),
        Event::OthersDropPairs => world.pairs.others_leave(),
        Event::PairIsTakenOff(number) => {
            if let Some(port) = world.our_port(number).and_then(|id| world.neutron.get(&id)) {
                world.pairs.take_off(port);
            }
        }
        Event::PairsAreBounded(most) => world.pairs.bound(most),
    }
}

fn meddle(
    world: &mut World,
    number: usize,
    change: impl FnOnce(&mut Segments, &PortId, &mut BTreeMap<PortId, ListedPort>),
) {
    if let Some(id) = world.our_port(number) {
        world.meddle_with_trunk(|trunks, ports| change(trunks, &id, ports));
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        Just(Rule::Learned { least: 3, most: 9 }),
        Just(Rule::Learned { least: 0, most: 0 }),
        Just(Rule::Upstream { min: 2, batch: 3, max: 0 }),
        Just(Rule::Upstream { min: 2, batch: 3, max: 6 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_ports_stay_in_order(
        rule in rule(),
        is_host: bool,
        label in proptest::option::of(Just(Mode::NestedMacvlan)),
        names_pods: bool,
        events in proptest::collection::vec(event(), 0..250),
    ) {
        let mut world = World::new(rule, is_host);
        world.change_label(label);
        world.limits.names_pods = names_pods;
        for event in events {
            happen(&mut world, event);
        }
        world.settle();
        // And a quiet world empties: everything of a node that goes is taken back.
        world.delete_node();
        world.settle();
    }
}

/// A day without trouble, step by step: the numbers that an operator sees.
#[test]
fn thirty_pods_on_a_small_pool() {
    for (is_host, label) in [(true, None), (false, None), (false, Some(Mode::NestedMacvlan))] {
        let mut world = World::new(Rule::Learned { least: 5, most: 9 }, is_host);
        world.change_label(label);
        thirty_pods(world);
    }
}

/// Without a pool each pod gets a port that is made for it, and nothing stays: neither that, nor what was ready before.
#[test]
fn a_pool_of_nothing_serves_every_pod() {
    for (is_host, label) in [(true, None), (false, None), (false, Some(Mode::NestedMacvlan))] {
        let mut world = World::new(Rule::Learned { least: 5, most: 9 }, is_host);
        world.change_label(label);
        world.settle();
        let ports = |world: &World| world.record.as_ref().unwrap().0.ports.len();
        assert_eq!(ports(&world), 5);
        world.change_rule(Rule::Learned { least: 0, most: 0 });
        world.settle();
        assert_eq!(ports(&world), 0, "nothing is ready");
        for _ in 0..3 {
            world.make_pod();
        }
        world.serve_at_once(3);
        world.settle();
        assert_eq!(ports(&world), 3, "one for each");
        while let Some(identity) = world.pod_number(0) {
            world.delete_pod(&identity);
        }
        world.settle();
        assert_eq!(ports(&world), 0, "nothing stays");
    }
}

/// What others take off a server's port comes back, and what is theirs stays.
#[test]
fn a_pair_that_is_taken_off_comes_back() {
    let mut world = World::new(Rule::Learned { least: 3, most: 9 }, false);
    world.change_label(Some(Mode::NestedMacvlan));
    world.make_pod();
    world.settle();
    assert_eq!(world.record.as_ref().unwrap().0.mode, Mode::NestedMacvlan);
    for number in 0..3 {
        let port = world.our_port(number).unwrap();
        world.pairs.take_off(&world.neutron[&port]);
        world.pairs.others_add(u8::try_from(number).unwrap());
        world.settle();
    }
}

/// Somebody deletes the record by force: what pods have stays theirs, and all others are offered again as new.
#[test]
fn a_record_that_is_deleted_comes_again_with_what_pods_have() {
    for (is_host, label) in [(true, None), (false, None), (false, Some(Mode::NestedMacvlan))] {
        let mut world = World::new(Rule::Learned { least: 3, most: 9 }, is_host);
        world.change_label(label);
        for _ in 0..3 {
            world.make_pod();
        }
        world.settle();
        let (before, claims) = (world.record.as_ref().unwrap().0.ports.clone(), world.claims());
        assert_eq!((before.len(), claims.len()), (6, 3));
        world.lose_record();
        world.settle();
        let after = &world.record.as_ref().unwrap().0.ports;
        assert_eq!(world.claims(), claims);
        for (id, (_, generation)) in &claims {
            assert_eq!((after[id].generation, after[id].doomed), (*generation, false), "{id}");
        }
        for (id, entry) in after.iter().filter(|(id, _)| !claims.contains_key(*id)) {
            assert_ne!(before.get(id).map(|former| former.generation), Some(entry.generation), "{id}");
        }
    }
}

fn thirty_pods(mut world: World) {
    world.settle();
    let ports = |world: &World| world.record.as_ref().unwrap().0.ports.len();
    assert_eq!(ports(&world), 5, "the least");
    for _ in 0..30 {
        world.make_pod();
    }
    world.serve_at_once(30);
    world.settle();
    assert_eq!(ports(&world), 39, "as many came at once as are kept at most");
    while let Some(identity) = world.pod_number(0) {
        world.delete_pod(&identity);
    }
    world.settle();
    assert!(ports(&world) <= world.bounds().1, "{}", ports(&world));
    assert_eq!(world.late_calls(), 0);
    assert!(world.has_node());
}
