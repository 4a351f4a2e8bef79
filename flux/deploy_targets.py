"""Files that have something else run Flux: a systemd unit, an image with its compose file, Kubernetes manifests.

How to think about it: a project says what is served, these say who starts the server, who restarts it, where its
database is, when it is ready, and what is around it. They are written once, belong to the project from then on, and are
meant to be read and changed. So they are plain text with their reasons in them, and nothing here looks at the machine.

What must fit to the server: its signals and how long it drains (`STOP_S`), its two questions (``/_flux/health`` and
``/_flux/live``), and the walls that its sandbox builds, which containers refuse by default (`Site.isolation`).
"""

import re
from collections.abc import Mapping

import attrs

STOP_S = 75
"""How long whoever stops the server gives it: it drains, stores what waits, and ends processes that did not."""
TARGETS = ("systemd", "docker", "k8s")


@attrs.frozen
class Site:
    """What is to be run, and with what."""

    name: str
    """The project's."""
    root: str
    """Its folder on this machine."""
    user: str
    """Who owns it."""
    python: str
    """The interpreter that has Flux, on this machine."""
    python_version: str
    """Its version, ``3.12``: functions of another one would need other packages."""
    flux_version: str
    port: int
    workers: int
    isolation: str
    """Of the sandbox: ``strict`` or ``core``."""
    database_url: str = ""
    """What ``flux.toml`` names; empty: the embedded one, which is for systemd alone."""

    @property
    def slug(self) -> str:
        """The name as services and images can have it."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-")
        return slug if slug[:1].isalpha() else f"flux-{slug}".rstrip("-")


def write_target(target: str, site: Site) -> Mapping[str, str]:
    """Return the files of a target by their paths in the project."""
    match target:
        case "systemd":
            return {f"deploy/systemd/{site.slug}.service": _write_unit(site)}
        case "docker":
            return {
                "deploy/docker/Dockerfile": _write_dockerfile(site),
                "deploy/docker/Dockerfile.dockerignore": _DOCKERIGNORE,
                "deploy/docker/compose.yaml": _write_compose(site),
            }
        case "k8s":
            return {f"deploy/k8s/{site.slug}.yaml": _write_manifests(site)}
    raise AssertionError(f"{target} is no target")


def describe_next(target: str, site: Site) -> list[str]:
    """Return what people do with the files, a line each; a line that begins with ``!`` is to be known before."""
    notes: list[str] = []
    if target != "systemd" and site.isolation == "strict":
        notes.append(
            "! isolation is strict: it needs namespaces, which containers refuse by default. The files ask for them; "
            'where that is not granted the server does not start (FLX420), and isolation = "core" is the choice'
        )
    match target:
        case "systemd":
            unit = f"{site.slug}.service"
            return [
                *notes,
                f"sudo cp deploy/systemd/{unit} /etc/systemd/system/",
                f"sudo systemctl daemon-reload && sudo systemctl enable --now {unit}",
            ]
        case "docker":
            return [*notes, "POSTGRES_PASSWORD=... docker compose -f deploy/docker/compose.yaml up --build"]
    return [
        *notes,
        f"kubectl create secret generic {site.slug}-database --from-literal=url=postgresql://...",
        f"kubectl apply -f deploy/k8s/{site.slug}.yaml",
    ]


def _quote(text: str) -> str:
    """As one word of a unit's command line: systemd reads escapes, specifiers and variables in there."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _write_unit(site: Site) -> str:
    after = "network-online.target" if site.database_url else "network-online.target postgresql.service"
    return f"""\
# Flux serves {site.slug}. Written by: flux deploy --target systemd
[Unit]
Description=Flux: {site.slug}
Wants=network-online.target
After={after}
# Restart= has no limit: a database that is away for an hour must not end the service for good.
StartLimitIntervalSec=0

[Service]
Type=exec
User={site.user}
WorkingDirectory={site.root.replace("%", "%%")}
ExecStart={_quote(site.python)} -P -m flux serve --bind 127.0.0.1:{site.port} --workers {site.workers}
# SIGHUP reads a certificate again; it deploys nothing.
ExecReload=/bin/kill -HUP $MAINPID
# SIGTERM goes to the parent, which has its processes drain; what is left at the end is killed with all it started.
KillMode=mixed
TimeoutStopSec={STOP_S}
Restart=on-failure
RestartSec=2
# Control groups for the functions' processes. See flux doctor.
Delegate=yes
OOMPolicy=continue
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
# The sandbox builds its walls itself, of user, mount, pid and network namespaces. These settings would take what it
# needs for that: RestrictNamespaces=, ProtectKernelTunables=, ProtectProc=, ProtectControlGroups=, SystemCallFilter=.

[Install]
WantedBy=multi-user.target
"""


def _write_dockerfile(site: Site) -> str:
    return f"""\
# Flux with the project in it. Written by: flux deploy --target docker
FROM python:{site.python_version}-slim
# Or the path of a wheel that is copied in before.
ARG FLUX=fluxrt=={site.flux_version}
# With git and .git in the image, records name the commit that made them.
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* \\
 && pip install --no-cache-dir "$FLUX" \\
 && useradd --uid 10001 --create-home flux && install -d -o flux /srv/app
USER 10001
WORKDIR /srv/app
COPY --chown=10001:10001 . .
# The packages of requirements.txt, so that a start needs no network.
RUN flux build
EXPOSE {site.port}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \\
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{site.port}/_flux/health', timeout=4)"]
# --deploy: a new image is new code. The database is named by who runs it.
ENTRYPOINT ["flux", "serve", "--deploy", "--bind", "0.0.0.0:{site.port}", "--workers", "{site.workers}"]
"""


_DOCKERIGNORE = """\
# Of this machine alone: its database and journals, its secrets.
.flux
.env*
deploy
**/__pycache__
**/node_modules
"""


def _write_compose(site: Site) -> str:
    walls = ""
    if site.isolation == "strict":
        walls = """\
    # The sandbox (isolation = "strict") builds namespaces and mounts a /proc of its own, which the default profile
    # refuses. Without these lines the server does not start and says so (FLX420); isolation = "core" needs none.
    security_opt:
      - seccomp=unconfined
      - apparmor=unconfined
      - systempaths=unconfined
"""
    return f"""\
# Written by: flux deploy --target docker
name: {site.slug}
services:
  app:
    build:
      context: ../..
      dockerfile: deploy/docker/Dockerfile
    environment:
      # Not in the command, which every user of the machine can read.
      FLUXRT_DATABASE_URL: postgresql://flux:${{POSTGRES_PASSWORD:?a password for the database}}@database:5432/flux
    depends_on:
      database:
        condition: service_healthy
    ports:
      - "127.0.0.1:{site.port}:{site.port}"
    volumes:
      # The journal: what a container that was killed had begun becomes records at the next start.
      - flux:/srv/app/.flux
    init: true
    restart: unless-stopped
    stop_grace_period: {STOP_S}s
    cap_drop:
      - ALL
{walls}  database:
    image: postgres:18
    environment:
      POSTGRES_USER: flux
      POSTGRES_DB: flux
      POSTGRES_PASSWORD: ${{POSTGRES_PASSWORD:?a password for the database}}
    healthcheck:
      test: ["CMD", "pg_isready", "-U", "flux", "-d", "flux"]
      interval: 2s
      timeout: 5s
      retries: 60
    volumes:
      - database:/var/lib/postgresql
    restart: unless-stopped
    stop_grace_period: 60s
volumes:
  flux:
  database:
"""


def _write_manifests(site: Site) -> str:
    profile, mask = "RuntimeDefault", ""
    if site.isolation == "strict":
        profile = "Unconfined"
        mask = """
            # The sandbox (isolation = "strict") builds namespaces and mounts a /proc of its own. Where a cluster does
            # not allow this, the server does not start and says so (FLX420); isolation = "core" needs RuntimeDefault
            # alone. An unmasked /proc needs hostUsers: false.
            procMount: Unmasked"""
    users = "\n      hostUsers: false" if site.isolation == "strict" else ""
    return f"""\
# Written by: flux deploy --target k8s. The image is that of: flux deploy --target docker
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {site.slug}
  labels: {{app: {site.slug}}}
spec:
  replicas: 2
  selector:
    matchLabels: {{app: {site.slug}}}
  strategy:
    type: RollingUpdate
    rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {{app: {site.slug}}}
    spec:
      automountServiceAccountToken: false{users}
      terminationGracePeriodSeconds: {STOP_S + 15}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        fsGroup: 10001
        seccompProfile: {{type: {profile}}}
      containers:
        - name: flux
          image: {site.slug}:latest
          env:
            - name: FLUXRT_DATABASE_URL
              valueFrom:
                secretKeyRef: {{name: {site.slug}-database, key: url}}
          ports:
            - {{name: http, containerPort: {site.port}}}
          # Ready: there is code, the database is there, it is not about to end. Live: it answers at all. For a database
          # that is away it is not to be started again.
          startupProbe:
            httpGet: {{path: /_flux/live, port: http}}
            periodSeconds: 2
            failureThreshold: 150
          readinessProbe:
            httpGet: {{path: /_flux/health, port: http}}
            periodSeconds: 2
            failureThreshold: 1
            timeoutSeconds: 5
          livenessProbe:
            httpGet: {{path: /_flux/live, port: http}}
            periodSeconds: 10
            failureThreshold: 6
            timeoutSeconds: 5
          lifecycle:
            # Until whoever balances the load has heard that this one ends.
            preStop:
              exec: {{command: ["sleep", "5"]}}
          resources:
            requests: {{cpu: "{site.workers}", memory: {512 * site.workers}Mi}}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}{mask}
          volumeMounts:
            - {{name: flux, mountPath: /srv/app/.flux}}
      volumes:
        # Journals outlive a container and not its pod: what a pod that vanished had begun has no record.
        - name: flux
          emptyDir: {{}}
---
apiVersion: v1
kind: Service
metadata:
  name: {site.slug}
spec:
  selector: {{app: {site.slug}}}
  ports:
    - {{name: http, port: 80, targetPort: http}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {site.slug}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{app: {site.slug}}}
"""
