//! Objects in few bytes, for stores that hold thousands of them and are seldom asked for one.
//!
//! A Service and its slices take kilobytes: each text is a piece of memory of its own, each map has room for eleven entries, and
//! most fields are empty. Packed, an object is one piece of as many bytes as it has to say.
//!
//! The form is for one process: nothing written by it is read by another.

use std::{collections::BTreeMap, net::IpAddr};

use bitcode::{Decode, Encode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Named, Service,
    endpoint_slice::SERVICE_NAME,
};
use crate::store::ObjectKey;

/// An object that can be packed.
pub trait Pack: Sized {
    /// All of it but its namespace and name, as bytes.
    fn pack(&self) -> Vec<u8>;

    /// The object of these bytes; none if they are not of [`Pack::pack`].
    fn unpack(key: &ObjectKey, bytes: &[u8]) -> Option<Self>;
}

impl Pack for EndpointSlice {
    fn pack(&self) -> Vec<u8> {
        let mut names = Names::default();
        let all = self.endpoints.as_ref();
        let endpoints = all.map(|all| all.iter().map(|one| numbered(one, &mut names)).collect());
        let Self { metadata, address_type, ports, .. } = self;
        let identity = (metadata.uid.as_deref(), metadata.resource_version.as_deref(), self.service_name());
        bitcode::encode(&(
            identity,
            address_type.as_str(),
            ports.clone(),
            PackedEndpoints(endpoints),
            names.all,
        ))
    }

    fn unpack(key: &ObjectKey, bytes: &[u8]) -> Option<Self> {
        type Identity = (Option<String>, Option<String>, Option<String>);
        type Packed = (Identity, String, Option<Vec<EndpointPort>>, PackedEndpoints, Vec<String>);
        let (identity, address_type, ports, endpoints, names) = bitcode::decode::<Packed>(bytes).ok()?;
        let (uid, resource_version, service) = identity;
        let labels = service.map(|service| [(SERVICE_NAME.to_owned(), service)].into());
        let metadata = ObjectMeta { uid, resource_version, labels, ..ObjectMeta::default() };
        let endpoints = within(endpoints.0, |all| all.into_iter().map(|one| named(one, &names)).collect())?;
        Some(Self { metadata: with_names(metadata, key), address_type, endpoints, ports })
    }
}

impl Pack for Service {
    fn pack(&self) -> Vec<u8> {
        let Self { metadata, spec, status } = self.clone();
        bitcode::encode(&(Metadata::of(metadata), spec, status))
    }

    fn unpack(key: &ObjectKey, bytes: &[u8]) -> Option<Self> {
        let (metadata, spec, status) = bitcode::decode::<(Metadata, _, _)>(bytes).ok()?;
        Some(Self { metadata: metadata.into_metadata(key)?, spec, status })
    }
}

/// Endpoints whose nodes and zones are numbers: many share a node, and all that are meant for a zone name it.
#[derive(Encode, Decode)]
struct PackedEndpoints(Option<Vec<PackedEndpoint>>);

/// Addresses, conditions, the node, and for which zones and nodes it is meant.
type PackedEndpoint = (Vec<IpAddr>, EndpointConditions, Option<u32>, Option<[Option<Vec<u32>>; 2]>);

/// Names by their numbers.
#[derive(Default)]
struct Names<'a> {
    all: Vec<&'a str>,
    numbers: BTreeMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    fn number(&mut self, name: &'a str) -> u32 {
        *self.numbers.entry(name).or_insert_with(|| {
            self.all.push(name);
            u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

fn numbered<'a>(endpoint: &'a Endpoint, names: &mut Names<'a>) -> PackedEndpoint {
    let node = endpoint.node_name.as_deref().map(|name| names.number(name));
    let hints = endpoint.hints.as_ref().map(|hints| {
        [&hints.for_zones, &hints.for_nodes].map(|named| {
            let named = named.as_ref()?.iter();
            Some(named.map(|one| names.number(&one.name)).collect())
        })
    });
    (endpoint.addresses.clone(), endpoint.conditions, node, hints)
}

/// None if a number is of no name.
fn named((addresses, conditions, node, hints): PackedEndpoint, names: &[String]) -> Option<Endpoint> {
    let name = |number: u32| names.get(usize::try_from(number).ok()?).cloned();
    let all = |numbers: Vec<u32>| {
        let named = numbers.into_iter().map(|number| Some(Named { name: name(number)? }));
        named.collect::<Option<Vec<_>>>()
    };
    let node_name = within(node, |node| name(node).map(String::into_boxed_str))?;
    let hints = within(hints, |[zones, nodes]| {
        Some(EndpointHints { for_zones: within(zones, all)?, for_nodes: within(nodes, all)? })
    })?;
    Some(Endpoint { addresses, conditions, node_name, hints })
}

/// What a value becomes, if there is one; none if it cannot.
fn within<T, U>(value: Option<T>, read: impl FnOnce(T) -> Option<U>) -> Option<Option<U>> {
    value.map_or(Some(None), |value| read(value).map(Some))
}

/// What [`super::metadata::trimmed`] leaves.
#[derive(Encode, Decode)]
struct Metadata {
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    created: Option<Moment>,
    deleted: Option<Moment>,
    grace_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    owners: Option<Vec<Owner>>,
}

/// Seconds since 1970, and nanoseconds of the next one.
#[derive(Encode, Decode)]
struct Moment(i64, i32);

#[derive(Encode, Decode)]
struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl Metadata {
    fn of(metadata: ObjectMeta) -> Self {
        Self {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            created: metadata.creation_timestamp.map(Moment::of),
            deleted: metadata.deletion_timestamp.map(Moment::of),
            grace_seconds: metadata.deletion_grace_period_seconds,
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owners: metadata.owner_references.map(|owners| owners.into_iter().map(Owner::of).collect()),
        }
    }

    fn into_metadata(self, key: &ObjectKey) -> Option<ObjectMeta> {
        let time = |moment: Option<Moment>| moment.map(Moment::into_time).transpose();
        let metadata = ObjectMeta {
            uid: self.uid,
            resource_version: self.resource_version,
            generation: self.generation,
            creation_timestamp: time(self.created).ok()?,
            deletion_timestamp: time(self.deleted).ok()?,
            deletion_grace_period_seconds: self.grace_seconds,
            labels: self.labels,
            annotations: self.annotations,
            finalizers: self.finalizers,
            owner_references: self
                .owners
                .map(|owners| owners.into_iter().map(Owner::into_reference).collect()),
            ..ObjectMeta::default()
        };
        Some(with_names(metadata, key))
    }
}

fn with_names(metadata: ObjectMeta, key: &ObjectKey) -> ObjectMeta {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectMeta { name: text(&key.name), namespace: text(&key.namespace), ..metadata }
}

impl Moment {
    fn of(time: Time) -> Self {
        Self(time.0.as_second(), time.0.subsec_nanosecond())
    }

    fn into_time(self) -> Result<Time, jiff::Error> {
        Timestamp::new(self.0, self.1).map(Time)
    }
}

impl Owner {
    fn of(reference: OwnerReference) -> Self {
        Self {
            api_version: reference.api_version,
            kind: reference.kind,
            name: reference.name,
            uid: reference.uid,
            controller: reference.controller,
            block_owner_deletion: reference.block_owner_deletion,
        }
    }

    fn into_reference(self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version,
            kind: self.kind,
            name: self.name,
            uid: self.uid,
            controller: self.controller,
            block_owner_deletion: self.block_owner_deletion,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata() -> Value {
        json!({
            "name": "web-x", "namespace": "d", "uid": "9d5b1d7e-46f7-44a5-8e0b-6f1f6b0f5d11", "resourceVersion": "7", "generation": 2,
            "creationTimestamp": "2026-11-01T00:00:00Z", "deletionTimestamp": "2026-11-01T00:00:30.000001Z",
            "deletionGracePeriodSeconds": 30, "labels": {"kubernetes.io/service-name": "web"}, "annotations": {"x": "y"},
            "finalizers": ["f"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "v", "controller": true, "blockOwnerDeletion": true}],
        })
    }

    /// Each field of these types is in one of the two objects, so that one that is forgotten is noticed.
    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let full = json!({
            "metadata": metadata(), "addressType": "IPv6",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": null, "port": null}],
            "endpoints": [
                {"addresses": ["fd00::1", "fd00::2"], "conditions": {"ready": false, "serving": true, "terminating": true},
                 "nodeName": "n1", "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "hints": {"forZones": [{"name": "a"}, {"name": "n1"}]}},
                {"addresses": ["10.0.0.3"], "nodeName": "n1"},
                {"addresses": []},
            ],
        });
        for object in [full, json!({"metadata": {"name": "a"}})] {
            let slice: EndpointSlice = serde_json::from_value(object).unwrap();
            assert_eq!(EndpointSlice::unpack(&ObjectKey::of(&slice), &slice.pack()), Some(slice));
        }
        let full = json!({
            "metadata": metadata(),
            "spec": {
                "type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "ipFamilies": ["IPv4", "IPv6"], "loadBalancerIP": "203.0.113.7",
                "loadBalancerClass": "c", "loadBalancerSourceRanges": ["203.0.113.0/24"], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}, "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30090, "externalIPs": ["203.0.113.9"],
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080, "targetPort": "web"}, {"port": 81, "targetPort": 8081}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7", "hostname": "h", "ipMode": "VIP"}]}},
        });
        for object in [full, json!({"metadata": {"name": "a"}})] {
            let service: Service = serde_json::from_value(object).unwrap();
            assert_eq!(Service::unpack(&ObjectKey::of(&service), &service.pack()), Some(service));
        }
    }

    #[test]
    fn other_bytes_are_no_object() {
        let key = ObjectKey::cluster("a");
        assert_eq!(EndpointSlice::unpack(&key, b"").map(|_| ()), None);
        assert_eq!(Service::unpack(&key, &[255; 40]).map(|_| ()), None);
    }
}
