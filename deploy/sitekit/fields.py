"""The fields of a site file, typed as in the schema.

The only default here is None, for what may be absent: all others are in the schema, which also says
what each field is and reports what is wrong with a file, line by line.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "Bounds",
    "Choice",
    "Container",
    "Cpu",
    "Fields",
    "Kubernetes",
    "Memory",
    "SchedulerType",
    "Selection",
]

SchedulerType = Literal["slurm", "pbspro", "torque", "kubernetes", "local"]


class _Part(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Fields that belong together."""


class Reference(_Part, frozen=True, kw_only=True):
    """A page of documentation, and which facts are from it."""

    url: str
    says: str


class Login(_Part, frozen=True, kw_only=True):
    """How an administrator reaches the machine that runs the endpoint."""

    host: str | None = None
    user: str | None = None
    jump_host: str | None = None
    ask_scheduler: bool


class Launcher(_Part, frozen=True, kw_only=True):
    """What starts the worker pool on each node of a block."""

    type: Literal["single-node", "srun", "mpiexec", "mpirun", "aprun"]
    bind_option: Literal["--bind-to", "--cpu-bind"] | None = None
    options: list[str]


class Scheduler(_Part, frozen=True, kw_only=True):
    """The batch system and what every block (job) asks it for."""

    type: SchedulerType
    account: str | None = None
    partition: str | None = None
    queue: str | None = None
    qos: str | None = None
    constraint: str | None = None
    clusters: str | None = None
    exclusive: bool | None = None
    launcher: Launcher | None = None
    select: list[str]
    directives: list[str]
    cmd_timeout: int


class Blocks(_Part, frozen=True, kw_only=True):
    """How many blocks (jobs or pods) there may be and how large each is."""

    nodes: int
    init: int
    min: int
    max: int
    parallelism: int | float
    walltime: str | None = None
    idle_seconds: int
    strategy_seconds: int | float


class Limits(_Part, frozen=True, kw_only=True):
    """The facility's own limits, against which everything else is checked."""

    walltime: str | None = None
    nodes: int | None = None
    jobs: int | None = None
    workers: int | None = None


class Tasks(_Part, frozen=True, kw_only=True):
    """What a block must be able to hold."""

    longest_minutes: int | float
    startup_seconds: int
    retries: int


class Proxy(_Part, frozen=True, kw_only=True):
    """Web proxy between the endpoint and the internet; workers need none."""

    https: str
    http: str | None = None
    none_for: list[str]


class Network(_Part, frozen=True, kw_only=True):
    """How workers reach the endpoint."""

    interface: str | None = None
    address: str | None = None
    method: Literal["route", "hostname"] | None = None
    worker_port: int | None = None
    encrypted: bool
    encrypted_reason: str | None = None
    heartbeat_seconds: int
    lost_after_seconds: int
    proxy: Proxy | None = None


class Gpus(_Part, frozen=True, kw_only=True):
    """GPUs of a node."""

    count: int
    kind: str
    request: Literal["gpus-per-node", "gres", "gpus", "ngpus", "nvidia.com/gpu", "none"] | None = (
        None
    )


class Node(_Part, frozen=True, kw_only=True):
    """The share of a node that a block gets."""

    cores: int | None = None
    cpus_per_core: int
    memory_gb: int | None = None
    request_memory: bool | None = None
    gpus: Gpus | None = None

    @property
    def gpu_count(self) -> int:
        """GPUs of a node; 0 where there are none."""
        return self.gpus.count if self.gpus else 0

    @property
    def cpus(self) -> int:
        """CPUs that the scheduler counts for the cores, which a batch system's site gives."""
        return (self.cores or 1) * self.cpus_per_core


class Workers(_Part, frozen=True, kw_only=True):
    """Worker processes."""

    device: Literal["cpu", "cuda12", "cuda13"]
    per_node: int | None = None
    threads: int | None = None
    memory_gb: int | float
    affinity: Literal["none", "block", "alternating", "block-reverse"]


class Container(_Part, frozen=True, kw_only=True):
    """A container image that holds the worker."""

    type: Literal["apptainer", "singularity", "docker", "podman", "podman-hpc", "shifter", "none"]
    image: str | None = None
    binds: list[str]
    options: list[str]


class Conda(_Part, frozen=True, kw_only=True):
    """A Conda environment."""

    base: str
    name: str


class Environment(_Part, frozen=True, kw_only=True):
    """What a worker runs in."""

    container: Container | None = None
    venv: str | None = None
    conda: Conda | None = None
    inherit: bool | None = None
    module_paths: list[str]
    modules: list[str]
    variables: dict[str, str]


class Directories(_Part, frozen=True, kw_only=True):
    """Where files are, as a job sees it."""

    run: str
    cache: str
    scratch: str


class Cpu(_Part, frozen=True, kw_only=True):
    """CPUs of a pod."""

    request: int | float
    limit: int | float


class Memory(_Part, frozen=True, kw_only=True):
    """Memory of a pod."""

    request: str
    limit: str


class Toleration(_Part, frozen=True, kw_only=True):
    """A taint of nodes that may run workers nevertheless."""

    key: str
    operator: Literal["Exists", "Equal"]
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class EndpointPod(_Part, frozen=True, kw_only=True):
    """The pod that the endpoint runs in."""

    image: str
    cpu: Cpu
    memory: Memory
    state: str | None = None
    storage_class: str | None = None
    priority_class: str | None = None


class Kubernetes(_Part, frozen=True, kw_only=True):
    """Where and how worker pods run."""

    namespace: str
    image: str
    service_account: str | None = None
    pull_secret: str | None = None
    cpu: Cpu
    memory: Memory
    user_id: int
    group_id: int
    annotations: dict[str, str]
    node_selector: dict[str, str]
    tolerations: list[Toleration]
    priority_class: str | None = None
    scratch: str
    credentials_secret: str | None = None
    endpoint_pod: EndpointPod


class Choice(_Part, frozen=True, kw_only=True):
    """What users may choose: one of a list, or any name."""

    choices: list[str] | None = None


class Selection(_Part, frozen=True, kw_only=True):
    """What users may choose: one of a list."""

    choices: list[str]


class Bounds(_Part, frozen=True, kw_only=True):
    """Least and most that users may set."""

    minimum: int
    maximum: int


class UserOptions(_Part, frozen=True, kw_only=True):
    """What users may set when they submit; what is absent cannot be set."""

    account: Choice | None = None
    partition: Selection | None = None
    queue: Selection | None = None
    qos: Selection | None = None
    walltime_minutes: Bounds | None = None
    max_blocks: Bounds | None = None
    nodes_per_block: Bounds | None = None
    workers_per_node: Bounds | None = None

    def allowed(self) -> dict[str, Bounds | Selection | Choice]:
        """Return the options that users may set, by name."""
        options = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: option for name, option in options.items() if option is not None}


class Access(_Part, frozen=True, kw_only=True):
    """Who may use the endpoint and what may run."""

    mode: Literal["single-user", "multi-user"]
    functions: list[str]
    function_sharing: str
    authentication_policy: str | None = None
    identity_mapping: str | None = None
    domains: list[str] | None = None
    pam_service: str | None = None
    public: bool
    subscription: str | None = None
    admins: list[str]
    high_assurance: bool
    audit_log: str | None = None


class Endpoint(_Part, frozen=True, kw_only=True):
    """The endpoint process itself."""

    name: str | None = None
    id: str | None = None
    venv: str
    heartbeat_seconds: int
    idle_minutes: int
    stuck_hours: int
    restart: Literal["always", "on-failure", "no"]
    amqp_port: Literal[443, 5671]


class Fields(_Part, frozen=True, kw_only=True):
    """A site: what its scheduler is asked for, what runs on a node and who may use it."""

    description: str
    contact: str
    url: str
    verified: str
    sources: list[Reference]
    status: Literal["active", "retired"]
    login: Login
    scheduler: Scheduler
    blocks: Blocks
    limits: Limits
    tasks: Tasks
    network: Network
    node: Node
    workers: Workers
    environment: Environment
    directories: Directories
    kubernetes: Kubernetes | None = None
    user_options: UserOptions
    access: Access
    endpoint: Endpoint
