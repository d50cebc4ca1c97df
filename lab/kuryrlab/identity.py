"""Who may do what: projects, users, roles, services and endpoints in Keystone.

`kuryr` is what a deployment gives to Kuryr: member of its project, allowed to use load balancers, and `service`, since
Neutron lets only that role (or admin) bind a port to a host. `other` is a stranger in a project of its own.
"""

from . import settings as s
from .failure import Failure
from .wire import request

ROLES = ("admin", "member", "reader", "service", "load-balancer_member")
SERVICES = (("network", "neutron", s.NEUTRON_URL), ("load-balancer", "octavia", s.OCTAVIA_URL))
ASSIGNED = {"kuryr": ("member", "load-balancer_member", "service"), "other": ("member", "load-balancer_member")}


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

    def user(name: str, password: str, project: str, *granted: str) -> None:
        made = keystone.call(
            "POST",
            "/users",
            {
                "user": {
                    "name": name,
                    "password": password,
                    "domain_id": "default",
                    "default_project_id": projects[project],
                }
            },
        )
        for role in granted:
            keystone.call("PUT", f"/projects/{projects[project]}/users/{made['user']['id']}/roles/{roles[role]}")

    for _, name, _ in SERVICES:
        user(name, s.SERVICE_PASSWORD, "service", "admin", "service")
    for name, (project, password) in s.USERS.items():
        user(name, password, project, *ASSIGNED[name])
    for kind, name, url in SERVICES:
        service = keystone.call("POST", "/services", {"service": {"type": kind, "name": name}})["service"]["id"]
        for interface in ("public", "internal", "admin"):
            keystone.call(
                "POST",
                "/endpoints",
                {"endpoint": {"service_id": service, "interface": interface, "region_id": s.REGION, "url": url}},
            )
