//! What pods get in the cloud: project, network, subnets, security groups.
//!
//! Asked for at the begin of each leadership, again with growing distance while something is wrong, and as often as our
//! ports are listed while nothing is, so that a change in the cloud (an MTU, a gateway) arrives. In between one call a
//! minute finds out whether the cloud answers at all: nodes are told of an outage also while nobody needs a port. The one thing that is made here
//! is the group that allows everything, where no groups are configured; it is looked for by its id first, where pods have
//! it already, and by its name and tags: a second one would make another class of every port, and a Neutron server that
//! had just been started was seen to list nothing. Where there are two all the same, as a call that makes it came late, the
//! one that is not used is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kuryr_api::kuryrnode::{KuryrNode, NetworkEntry, Problem, SubnetEntry, SubnetRoute};
use kuryr_openstack::{
    Client, Credentials, Error, Options, Ownership,
    neutron::{
        network::Network,
        security_group::{Direction, EtherType, OwnedSecurityGroup, RuleSpec, SecurityGroup},
        subnet::Subnet,
    },
};
use kuryr_planning::{
    ownership::{self, Owner},
    pool::{DefaultClass, class, doubles::Named},
};
use kuryr_types::{NetworkId, SecurityGroupId, SubnetId};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::problem;
use crate::{
    config::{CloudConfig, Config, PodDefaults},
    metrics::Figures,
};

/// While something is wrong: first and greatest distance between looks.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(15);
/// While nothing is wrong, between looks.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// MTU in bytes where the network does not tell.
const DEFAULT_MTU: u32 = 1500;

/// What is known of the cloud.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// How to talk to it, and as whom; absent until the credentials were accepted.
    pub(crate) access: Option<Access>,
    /// What ordinary pods get; absent until it was found.
    pub(crate) class: Option<DefaultClass>,
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
}

/// How to talk to the cloud, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) client: Client,
    /// What is ours, as the calls need it.
    pub(crate) ownership: Ownership,
    /// What is ours, as decisions need it.
    pub(crate) owner: Owner,
}

/// Finds out what pods get.
pub(crate) struct Facts {
    cloud: CloudConfig,
    pods: PodDefaults,
    cluster: String,
    connect: Connect,
    figures: Figures,
    /// Groups of pods, as the leader before told them in records.
    former: BTreeSet<SecurityGroupId>,
    known: watch::Sender<Arc<Known>>,
}

/// Makes a client of the cloud.
pub type Connect = Arc<dyn Fn(Credentials, Options) -> Result<Client, Error> + Send + Sync>;

impl Facts {
    /// Nothing is known yet.
    pub(crate) fn new(config: &Config, cluster: String, connect: Connect, figures: Figures) -> Self {
        let (cloud, pods) = (config.cloud.clone(), config.pods.clone());
        let former = BTreeSet::new();
        Self { cloud, pods, cluster, connect, figures, former, known: watch::Sender::default() }
    }

    /// With what records tell of groups that pods have.
    pub(crate) fn after(self, records: &[Arc<KuryrNode>]) -> Self {
        let classes = records.iter().flat_map(|record| record.spec.classes.values());
        Self { former: classes.flat_map(|class| class.security_groups.clone()).collect(), ..self }
    }

    /// What is known, now and after each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// Looks until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut distance = RETRY_FIRST;
        let mut look_at = Instant::now();
        loop {
            let is_look = Instant::now() >= look_at;
            let asked = async { if is_look { self.look().await } else { self.ask().await } };
            let problems = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                problems = asked => problems,
            };
            let wait = if problems.is_empty() {
                distance = RETRY_FIRST;
                if is_look {
                    look_at = Instant::now() + self.cloud.list_period;
                }
                ASK_EVERY.min(self.cloud.list_period)
            } else {
                look_at = Instant::now();
                let now = distance;
                distance = (distance * 2).min(RETRY_MOST);
                now
            };
            self.tell(problems);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn tell(&self, problems: Vec<Problem>) {
        self.known.send_if_modified(|known| {
            let steady = |problem| problem::steady(problem, &known.problems);
            let problems: Vec<Problem> = problems.into_iter().map(steady).collect();
            let changed = known.problems != problems;
            if changed {
                for Problem { reason, message } in &problems {
                    tracing::warn!(reason, "{message}");
                }
                Arc::make_mut(known).problems = problems;
            }
            changed
        });
    }

    /// One look; returns what is wrong. What was known before stays known: pods go on being served.
    async fn look(&self) -> Vec<Problem> {
        let access = match self.access().await {
            Ok(access) => access,
            Err(problem) => return vec![problem],
        };
        let class = match self.class(&access).await {
            Ok(class) => class,
            Err(problem) => return vec![problem],
        };
        self.known.send_if_modified(|known| {
            let changed = known.class.as_ref() != Some(&class);
            if changed {
                tracing::info!(class = %class.id, network = %class.network, "found what pods get");
                Arc::make_mut(known).class = Some(class);
            }
            changed
        });
        vec![]
    }

    /// Whether the cloud answers; returns what is wrong.
    async fn ask(&self) -> Vec<Problem> {
        let known = Arc::clone(&self.known.borrow());
        let (Some(access), Some(class)) = (&known.access, &known.class) else { return self.look().await };
        match access.client.network(&class.network).await {
            Ok(_) => vec![],
            Err(error) => vec![problem::of("asking for the pods' network", &error)],
        }
    }

    /// Connects once; a client renews its token by itself.
    pub(crate) async fn access(&self) -> Result<Access, Problem> {
        if let Some(access) = &self.known.borrow().access {
            return Ok(access.clone());
        }
        let connect = |error: Error| problem::of("connecting to the cloud", &error);
        let credentials = Credentials::find(&self.cloud.section, &self.cloud.environment).map_err(connect)?;
        let options = Options {
            concurrency: self.cloud.concurrency,
            observe: Some(Arc::new(self.figures.clone())),
            ..Options::default()
        };
        let client = (self.connect)(credentials, options).map_err(connect)?;
        let project = client.project_id().await.map_err(connect)?;
        if let Some(wanted) = self.pods.project.as_ref().filter(|wanted| **wanted != project) {
            let message = format!(
                "[neutron_defaults] project is {wanted}, but the credentials in [neutron] are of project {project}: ports \
                 of another project would not be recognised as ours; use credentials of that project"
            );
            return Err(problem::new("WrongProject", message));
        }
        let mut ownership =
            Ownership::new(project.clone(), ownership::cluster_tag(&self.cluster)).map_err(connect)?;
        for tag in &self.pods.tags {
            ownership = ownership.with_tag(tag).map_err(connect)?;
        }
        let owner = Owner::new(project, ownership.tags().to_vec());
        let access = Access { client, ownership, owner };
        tracing::info!(project = %access.owner.project(), tags = ?access.owner.tags(), "connected to the cloud");
        self.known.send_modify(|known| Arc::make_mut(known).access = Some(access.clone()));
        Ok(access)
    }

    async fn class(&self, access: &Access) -> Result<DefaultClass, Problem> {
        let subnets = self.subnets(access).await?;
        let Some(network) = subnets.first().map(|subnet| subnet.network_id.clone()) else {
            let message = "no subnet for pods is configured: set [neutron_defaults] pod_subnets to the ids of a subnet for \
                           each address family, or pod_subnet to one";
            return Err(problem::new("NoPodSubnet", message));
        };
        if let Some(other) = subnets.iter().find(|subnet| subnet.network_id != network) {
            let message = format!(
                "[neutron_defaults] pod_subnets: subnet {} is in network {}, the first one in network {network}; a port is \
                 in one network, so name subnets of one",
                other.id, other.network_id
            );
            return Err(problem::new("SubnetsOfSeveralNetworks", message));
        }
        let found = access.client.network(&network).await;
        let network = found.map_err(|error| problem::of("asking for the pods' network", &error))?;
        let groups = self.groups(access).await?;
        Ok(DefaultClass {
            open: self.pods.security_groups.is_empty(),
            ..default_class(&network, &subnets, groups)
        })
    }

    async fn subnets(&self, access: &Access) -> Result<Vec<Subnet>, Problem> {
        let mut subnets = Vec::new();
        for id in &self.pods.subnets {
            match access.client.subnet(id).await {
                Ok(subnet) => subnets.push(subnet),
                Err(error) if error.is_not_found() => return Err(unknown_subnet(id, access)),
                Err(error) => return Err(problem::of("asking for the pods' subnet", &error)),
            }
        }
        Ok(subnets)
    }

    async fn groups(&self, access: &Access) -> Result<Vec<SecurityGroupId>, Problem> {
        if !self.pods.security_groups.is_empty() {
            return Ok(self.pods.security_groups.clone());
        }
        let group = self.allow_all(access).await;
        let group = group.map_err(|error| problem::of("providing the pods' security group", &error))?;
        Ok(vec![group.id.clone()])
    }

    /// Our group that allows everything: found by name and tags, else adopted by its name (a lost answer to the call
    /// that tags it), else made.
    async fn allow_all(&self, access: &Access) -> Result<OwnedSecurityGroup, Error> {
        let name = ownership::allow_all_group_name(&self.cluster);
        let client = &access.client;
        let group = match self.present_group(access, &name).await? {
            Some(group) => group,
            None => self.adopt_or_make(access, &name).await?,
        };
        let present = client.security_group_rules(&group.id).await?;
        let missing: Vec<RuleSpec> = allow_all_rules()
            .into_iter()
            .filter(|wanted| !present.iter().any(|rule| same_reach(&rule.spec, wanted)))
            .collect();
        if !missing.is_empty() {
            client.create_security_group_rules(&group, &missing).await?;
        }
        // Pods need not wait for it.
        if let Err(error) = self.delete_doubles(access, &group).await {
            tracing::warn!(%error, "could not delete security groups that were made twice");
        }
        Ok(group)
    }

    /// Deletes groups that were made like `group`, by calls of ours that came late. Neutron keeps those that a port has.
    async fn delete_doubles(&self, access: &Access, group: &OwnedSecurityGroup) -> Result<(), Error> {
        let client = &access.client;
        let named = client.security_groups_named(access.owner.project(), &group.name).await?;
        let description = self.description();
        let known = Arc::clone(&self.known.borrow());
        let of_class: BTreeSet<_> =
            known.class.iter().flat_map(|class| &class.entry.security_groups).chain(&self.former).collect();
        let ours = Named { id: &group.id, description: &description };
        let is_double = |found: &SecurityGroup| {
            Named { id: &found.id, description: &found.description }.is_double(&ours, &of_class)
        };
        for double in named.into_iter().filter(is_double) {
            let double = client.adopt_security_group(&access.ownership, double).await?;
            match client.delete_security_group(&double).await {
                Ok(()) => tracing::info!(group = %double.id, "deleted a security group that was made twice"),
                Err(Error::Conflict { .. }) => {
                    tracing::debug!(group = %double.id, "a security group that was made twice is in use");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// By which our group is told from those of other clusters.
    fn description(&self) -> String {
        format!("Allows everything; for pods of the Kubernetes cluster {}", self.cluster)
    }

    async fn present_group(&self, access: &Access, name: &str) -> Result<Option<OwnedSecurityGroup>, Error> {
        let known = Arc::clone(&self.known.borrow());
        let of_class = known.class.iter().flat_map(|class| &class.entry.security_groups);
        for id in of_class.chain(&self.former) {
            match access.client.owned_security_group(&access.ownership, id).await {
                Ok(group) if group.name == name => return Ok(Some(group)),
                // Gone, or one that somebody had configured.
                Ok(_) | Err(Error::NotFound { .. } | Error::Foreign { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let found = access.client.owned_security_groups(&access.ownership, Some(name)).await?;
        Ok(found.into_iter().next())
    }

    /// The name has room for a part of the cluster's id only, so the description decides.
    async fn adopt_or_make(&self, access: &Access, name: &str) -> Result<OwnedSecurityGroup, Error> {
        let description = self.description();
        let named = access.client.security_groups_named(access.owner.project(), name).await?;
        match named.into_iter().find(|group| group.description == description) {
            Some(group) => access.client.adopt_security_group(&access.ownership, group).await,
            None => access.client.create_security_group(&access.ownership, name, &description).await,
        }
    }
}

fn unknown_subnet(id: &SubnetId, access: &Access) -> Problem {
    let message = format!(
        "[neutron_defaults] pod_subnets (or pod_subnet) names subnet {id}, which does not exist or is not visible to \
         project {}: correct the id, or share the network with the project",
        access.owner.project()
    );
    problem::new("SubnetNotFound", message)
}

fn allow_all_rules() -> Vec<RuleSpec> {
    let families = [EtherType::Ipv4, EtherType::Ipv6];
    let rules = |direction| families.map(|family| RuleSpec::all(direction, family));
    rules(Direction::Ingress).into_iter().chain(rules(Direction::Egress)).collect()
}

/// Whether a rule admits what the wanted one admits; descriptions may differ.
fn same_reach(present: &RuleSpec, wanted: &RuleSpec) -> bool {
    RuleSpec { description: wanted.description.clone(), ..present.clone() } == *wanted
}

fn default_class(network: &Network, subnets: &[Subnet], groups: Vec<SecurityGroupId>) -> DefaultClass {
    let (id, entry) = class::class(subnets.iter().map(|subnet| subnet.id.clone()), groups);
    let described = NetworkEntry { name: network.name.clone(), mtu: network.mtu.unwrap_or(DEFAULT_MTU) };
    DefaultClass {
        id,
        entry,
        open: false,
        network: network.id.clone(),
        networks: BTreeMap::<NetworkId, _>::from([(network.id.clone(), described)]),
        subnets: subnets.iter().map(|subnet| (subnet.id.clone(), describe(subnet))).collect(),
    }
}

fn describe(subnet: &Subnet) -> SubnetEntry {
    let route = |route: &kuryr_openstack::neutron::subnet::HostRoute| SubnetRoute {
        destination: route.destination,
        nexthop: route.nexthop,
    };
    SubnetEntry {
        cidr: subnet.cidr,
        gateway: subnet.gateway_ip,
        routes: subnet.host_routes.iter().map(route).collect(),
        nameservers: subnet.dns_nameservers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::fake::{self, FakeCloud};
    use kuryr_telemetry::metrics::Metrics;

    fn facts(cloud: &Arc<FakeCloud>, subnets: &[&str]) -> Facts {
        let config = fake::config(&format!("[neutron_defaults]\npod_subnets = {}\n", subnets.join(",")));
        Facts::new(&config, "c1".into(), cloud.connect(), Figures::new(&Metrics::new()))
    }

    async fn reasons(facts: &Facts) -> Vec<String> {
        facts.look().await.into_iter().map(|problem| problem.reason).collect()
    }

    #[tokio::test]
    async fn an_unknown_subnet_is_named_and_the_cloud_asked_again() {
        let cloud = Arc::new(FakeCloud::default());
        let facts = facts(&cloud, &["s4"]);
        let problems = facts.look().await;
        assert_eq!(problems.len(), 1);
        let Problem { reason, message } = &problems[0];
        assert!(
            reason == "SubnetNotFound" && message.contains("s4") && message.contains("pod_subnets"),
            "{message}"
        );
        fake::lock(&cloud.subnets).push(fake::subnet("s4", "n"));
        assert_eq!(reasons(&facts).await, Vec::<String>::new());
        assert_eq!(facts.known.borrow().class.as_ref().unwrap().network, "n".into());
    }

    #[tokio::test]
    async fn subnets_are_of_one_network_and_there_is_one() {
        let cloud = Arc::new(FakeCloud::default());
        *fake::lock(&cloud.subnets) = vec![fake::subnet("a", "n"), fake::subnet("b", "m")];
        assert_eq!(reasons(&facts(&cloud, &["a", "b"])).await, ["SubnetsOfSeveralNetworks"]);
        assert_eq!(reasons(&facts(&cloud, &[])).await, ["NoPodSubnet"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_noticed_within_a_minute_and_a_look_is_not_needed_for_that() {
        let cloud = Arc::new(FakeCloud::default());
        fake::lock(&cloud.subnets).push(fake::subnet("s4", "n"));
        let facts = facts(&cloud, &["s4"]);
        let (stop, known) = (CancellationToken::new(), facts.subscribe());
        let told = || !known.borrow().problems.is_empty();
        let watch = async {
            tokio::time::sleep(Duration::from_secs(290)).await;
            // One look, and a call for each minute since.
            let counts = ["GET /v2.0/subnets", "GET /v2.0/networks"].map(|call| cloud.count(call));
            assert_eq!((counts, told()), ([1, 5], false));
            *fake::lock(&cloud.is_down) = true;
            tokio::time::sleep(ASK_EVERY).await;
            assert!(told());
            *fake::lock(&cloud.is_down) = false;
            tokio::time::sleep(RETRY_MOST).await;
            assert!(!told(), "{:?}", known.borrow().problems);
            assert!(cloud.count("GET /v2.0/subnets") > 1, "after trouble everything is looked at");
            stop.cancel();
        };
        tokio::join!(facts.run(stop.clone()), watch);
    }

    #[tokio::test]
    async fn the_group_that_allows_everything_is_made_once() {
        let cloud = Arc::new(FakeCloud::default());
        fake::lock(&cloud.subnets).push(fake::subnet("s4", "n"));
        for _ in 0..3 {
            // As after a restart: nothing is remembered.
            assert_eq!(reasons(&facts(&cloud, &["s4"])).await, Vec::<String>::new());
        }
        assert_eq!(cloud.count("POST /v2.0/security-groups"), 1);
    }

    #[tokio::test]
    async fn a_group_that_was_made_twice_is_deleted() {
        let cloud = Arc::new(FakeCloud::default());
        fake::lock(&cloud.subnets).push(fake::subnet("s4", "n"));
        let first = facts(&cloud, &["s4"]);
        assert_eq!(reasons(&first).await, Vec::<String>::new());
        let made = fake::lock(&cloud.groups)[0].clone();
        let like = |id: &str, of: &str| {
            let mut group = made.clone();
            (group["id"], group["tags"]) = (id.into(), serde_json::json!([]));
            group["description"] =
                format!("Allows everything; for pods of the Kubernetes cluster {of}").into();
            group
        };
        let ids = || -> Vec<String> {
            let groups = fake::lock(&cloud.groups);
            groups.iter().filter_map(|group| group["id"].as_str().map(str::to_owned)).collect()
        };
        fake::lock(&cloud.groups).extend([like("late", "c1"), like("of-another", "c2")]);
        fake::lock(&cloud.failing).push("DELETE /v2.0/security-groups/late".to_owned());
        assert_eq!(reasons(&first).await, Vec::<String>::new(), "pods are served all the same");
        assert_eq!(ids(), ["g1", "late", "of-another"]);
        fake::lock(&cloud.failing).clear();
        assert_eq!(reasons(&first).await, Vec::<String>::new());
        assert_eq!(ids(), ["g1", "of-another"]);
        // Pods may have it, as a record says.
        fake::lock(&cloud.groups).push(like("late", "c1"));
        let next = Facts { former: [SecurityGroupId::from("late")].into(), ..facts(&cloud, &["s4"]) };
        assert_eq!(reasons(&next).await, Vec::<String>::new());
        assert!(ids().contains(&"late".to_owned()));
    }

    #[tokio::test]
    async fn pods_with_our_own_group_are_open_and_no_others() {
        for (subnets, expect) in [("s4", true), ("s4\npod_security_groups = g", false)] {
            let cloud = Arc::new(FakeCloud::default());
            fake::lock(&cloud.subnets).push(fake::subnet("s4", "n"));
            let facts = facts(&cloud, &[subnets]);
            assert_eq!(reasons(&facts).await, Vec::<String>::new());
            let known = facts.subscribe().borrow().clone();
            assert_eq!(known.class.as_ref().map(|class| class.open), Some(expect), "{subnets}");
        }
    }
}
