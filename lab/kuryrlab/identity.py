"""Who may do what: projects, users, roles, services and endpoints in Keystone.

`kuryr` is what a deployment gives to Kuryr: member of its project, allowed to use load balancers, and `service`, since
Neutron lets only that role (or admin) bind a port to a host. `kuryr-nested` lacks that role: where all nodes are
virtual machines, no port has to be bound. `other` is a stranger in a project of its own.
"""

from . import settings as s
from .failure import Failure
from .wire import request

ROLES = ("admin", "member", "reader", "service", "load-balancer_member")
SERVICES = (("network", "neutron", s.NEUTRON_URL), ("load-balancer", "octavia", s.OCTAVIA_URL))
ASSIGNED = {
    "kuryr": ("member", "load-balancer_member", "service"),
    "kuryr-nested": ("member", "load-balancer_member"),
    "other": ("member", "load-balancer_member"),
}


class Keystone:
    """A minimal client of one Keystone, as one user; reached from inside a namespace or by a unix socket."""

    def __init__(self, netns: str | None, user: str, password: str, project: str, unix: str | None = None):
        self.netns, self.unix, self.user, self.password, self.project, self.token, self.project_id = (
            netns,
            unix,
            user,
            password,
            project,
            None,
            None,
        )

    def authenticate(self) -> None:
        """Get a token."""
        domain = {"id": "default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": self.user, "domain": domain, "password": self.password}},
                },
                "scope": {"project": {"name": self.project, "domain": domain}},
            }
        }
        answer = request(self.netns, "POST", s.KEYSTONE_URL + "/auth/tokens", body, unix=self.unix)
        if answer.status != 201:
            raise Failure(f"Keystone refuses {self.user}: {answer.status} {answer.body[:300]!r}")
        self.token, self.project_id = answer.headers["X-Subject-Token"], answer.json()["token"]["project"]["id"]

    def call(self, method: str, path: str, body=None, base: str = s.KEYSTONE_URL, accept: tuple = ()):
        """Send one request and return the decoded answer; an HTTP error that is not in `accept` is a Failure."""
        if not self.token:
            self.authenticate()
        answer = request(self.netns, method, base + path, body, {"X-Auth-Token": self.token}, unix=self.unix)
        if answer.status >= 300 and answer.status not in accept:
            raise Failure(f"{method} {path}: {answer.status} {answer.body[:500].decode(errors='replace')}")
        return answer.json() if answer.body and answer.status < 300 else None


def create(keystone: Keystone) -> None:
    """Create everything in a Keystone that knows only its admin."""
    roles = {r["name"]: r["id"] for r in keystone.call("GET", "/roles")["roles"]}
    for name in ROLES:
        if name not in roles:
            roles[name] = keystone.call("POST", "/roles", {"role": {"name": name}})["role"]["id"]
    projects = {
        name: keystone.call("POST", "/projects", {"project": {"name": name, "domain_id": "default"}})["project"]["id"]
        for name in ["service"] + sorted({project for project, _ in s.USERS.values()})
    }

    for _, name, _ in SERVICES:
        add_user(keystone, name, s.SERVICE_PASSWORD, projects["service"], [roles["admin"], roles["service"]])
    for name, (project, password) in s.USERS.items():
        add_user(keystone, name, password, projects[project], [roles[role] for role in ASSIGNED[name]])
    for kind, name, url in SERVICES:
        service = keystone.call("POST", "/services", {"service": {"type": kind, "name": name}})["service"]["id"]
        for interface in ("public", "internal", "admin"):
            keystone.call(
                "POST",
                "/endpoints",
                {"endpoint": {"service_id": service, "interface": interface, "region_id": s.REGION, "url": url}},
            )


def add_user(keystone: Keystone, name: str, password: str, project: str, roles: list[str]) -> None:
    """Create a user with roles in its project; both by id."""
    user = {"name": name, "password": password, "domain_id": "default", "default_project_id": project}
    made = keystone.call("POST", "/users", {"user": user})["user"]["id"]
    for role in roles:
        keystone.call("PUT", f"/projects/{project}/users/{made}/roles/{role}")


def complete(keystone: Keystone) -> None:
    """Create the users that a lab of an earlier checkout does not have."""
    there = {user["name"] for user in keystone.call("GET", "/users")["users"]}
    if missing := [name for name in s.USERS if name not in there]:
        roles = {r["name"]: r["id"] for r in keystone.call("GET", "/roles")["roles"]}
        projects = {p["name"]: p["id"] for p in keystone.call("GET", "/projects")["projects"]}
        for name in missing:
            project, password = s.USERS[name]
            add_user(keystone, name, password, projects[project], [roles[role] for role in ASSIGNED[name]])
