"""Rules of who may use an endpoint, and of what users may set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.schedulers.base import clock_seconds
from sitekit.derive import derive, hms
from sitekit.schedulers import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.problems import Problem
    from sitekit.site import Site

__all__ = ["RULES"]

_OF_BATCH = ("walltime_minutes", "nodes_per_block", "max_blocks", "workers_per_node")
_OPTIONS = {
    **{name: (*one.options, *_OF_BATCH) for name, one in BATCH.items()},
    "kubernetes": ("max_blocks",),
    "local": ("max_blocks", "workers_per_node"),
}
"""What users may be allowed to set, by scheduler."""


def mode(site: Site) -> Iterator[Problem]:
    """Check that a multi-user endpoint maps identities to accounts, and no other does."""
    access = site.access
    multi = access.mode == "multi-user"
    ways = {"identity_mapping": access.identity_mapping, "domains": access.domains}
    mapping = [name for name, value in ways.items() if value]
    if multi and len(mapping) != 1:
        yield site.problem(
            "access",
            "expected one of identity_mapping and domains for a multi-user endpoint, found "
            f"{' and '.join(mapping) or 'none'}",
            "domains: [<your identity provider's domain>]",
        )
    if not multi:
        for name in (*mapping, *(["pam_service"] if access.pam_service else [])):
            yield site.problem(
                f"access.{name}",
                "expected none for a single-user endpoint, which ignores it",
                "nothing, or mode: multi-user",
            )
    if multi and not site.access.authentication_policy:
        yield site.problem(
            "access.authentication_policy",
            "anyone whose identity maps to a local account can run fits here; a Globus "
            "authentication policy also says how recently they must have logged in",
            "authentication_policy: <id of the policy>",
            "warning",
        )
    if multi and site.endpoint.venv.startswith("~"):
        yield site.problem(
            "endpoint.venv",
            "expected an absolute path for a multi-user endpoint: users' children must read it",
            "venv: /opt/fitserve/venv",
        )
    if multi and not site.contact.startswith("mailto:"):
        yield site.problem(
            "contact",
            f"expected a mailto: address for a multi-user endpoint, found {site.contact}: "
            "an endpoint of root does not start without an e-mail address",
            "contact: mailto:<address of those who run it>",
        )
    conda, box = site.environment.conda, site.environment.container
    for field, path in (
        ("environment.venv", site.environment.venv),
        ("environment.conda.base", conda.base if conda else None),
        ("environment.container.image", box.image if box else None),
    ):
        if multi and path and path.startswith(("~", "$HOME")):
            yield site.problem(
                field,
                f"expected a path that is the same for all users, found {path}, which is below "
                "each user's own home",
                f"{field.rpartition('.')[2]}: /opt/fitserve/{path.rpartition('/')[2]}",
            )
    if multi and site.scheduler.type == "kubernetes":
        yield site.problem(
            "access.mode", "expected single-user on Kubernetes: a pod has one user", "single-user"
        )


def assurance(site: Site) -> Iterator[Problem]:
    """Check that high assurance has its subscription, policy and encryption."""
    if site.access.admins and not site.access.subscription:
        yield site.problem(
            "access.admins", "expected access.subscription as well", "subscription: <id>"
        )
    if not site.access.high_assurance:
        if site.access.audit_log:
            yield site.problem(
                "access.audit_log", "expected high_assurance: true as well", "high_assurance: true"
            )
        return
    access = site.access
    needed = {
        "subscription": access.subscription,
        "authentication_policy": access.authentication_policy,
    }
    for name, value in needed.items():
        if not value:
            yield site.problem(
                f"access.{name}", "expected with high_assurance, it is missing", f"{name}: <id>"
            )
    if not site.network.encrypted:
        yield site.problem(
            "access.high_assurance", "expected network.encrypted: true as well", "encrypted: true"
        )


def options_apply(site: Site) -> Iterator[Problem]:
    """Check that users can set only what the scheduler has, and may choose the site's own value."""
    kind = site.scheduler.type
    for name in site.user_options.allowed():
        if name not in _OPTIONS[kind]:
            yield site.problem(
                f"user_options.{name}", f"{kind} has no such thing", "nothing: remove it"
            )
    options, own = site.user_options, site.scheduler
    for name, option, value in (
        ("partition", options.partition, own.partition),
        ("queue", options.queue, own.queue),
        ("qos", options.qos, own.qos),
        ("account", options.account, own.account),
    ):
        choices = option.choices if option else None
        if choices and value and value not in choices:
            yield site.problem(
                f"user_options.{name}.choices",
                f"expected the site's own {value} among them, found {', '.join(choices)}",
                f"choices: [{', '.join([value, *choices])}]",
            )


def option_bounds(site: Site) -> Iterator[Problem]:
    """Check that bounds are in order and hold the site's own value, the users' default."""
    derived = derive(site)
    walltime = derived.walltime_seconds
    options = site.user_options
    for name, bounds, default in (
        ("walltime_minutes", options.walltime_minutes, walltime // 60 if walltime else None),
        ("max_blocks", options.max_blocks, site.blocks.max),
        ("nodes_per_block", options.nodes_per_block, site.blocks.nodes),
        ("workers_per_node", options.workers_per_node, derived.workers_per_node),
    ):
        if bounds is None:
            continue
        least, most = bounds.minimum, bounds.maximum
        if least > most:
            yield site.problem(
                f"user_options.{name}.minimum",
                f"expected at most the maximum of {most}, found {least}",
                f"minimum: {most}",
            )
        elif default is not None and not least <= default <= most:
            yield site.problem(
                f"user_options.{name}",
                f"expected bounds around the site's own {default}, found {least} to {most}",
                f"{{minimum: {min(least, default)}, maximum: {max(most, default)}}}",
            )
        elif default is None and name == "workers_per_node":
            yield site.problem(
                f"user_options.{name}", "expected node.cores to be given as well", "cores: <number>"
            )


def option_limits(site: Site) -> Iterator[Problem]:
    """Check that what users set is within the facility's limits, and a block still holds a task."""
    derived = derive(site)
    options = site.user_options
    bounds = options.walltime_minutes
    longest = site.limits.walltime
    if bounds:
        needed = derived.longest_seconds + site.tasks.startup_seconds
        if bounds.minimum * 60 <= needed:
            yield site.problem(
                "user_options.walltime_minutes.minimum",
                f"expected more than {hms(needed)}, the start of a block and the longest task, "
                f"found {bounds.minimum} minutes",
                f"minimum: {needed // 60 + 1}",
            )
        if longest and bounds.maximum * 60 > clock_seconds(longest):
            yield site.problem(
                "user_options.walltime_minutes.maximum",
                f"expected at most the facility's {longest}, found {bounds.maximum} minutes",
                f"maximum: {clock_seconds(longest) // 60}",
            )
    blocks = options.max_blocks.maximum if options.max_blocks else site.blocks.max
    nodes = options.nodes_per_block.maximum if options.nodes_per_block else site.blocks.nodes
    for limit, number, what in (
        (site.limits.nodes, blocks * nodes, "nodes"),
        (site.limits.jobs, blocks, "jobs"),
    ):
        if limit and number > limit and options.allowed():
            yield site.problem(
                "user_options.max_blocks.maximum",
                f"expected at most {limit} {what} of one user, found {number}",
                f"maximum: {max(1, limit // (nodes if what == 'nodes' else 1))}",
            )
    bounds = options.workers_per_node
    cores = site.node.cores
    if bounds and cores and bounds.maximum > cores:
        yield site.problem(
            "user_options.workers_per_node.maximum",
            f"expected at most the {cores} cores of a node, found {bounds.maximum}",
            f"maximum: {cores}",
        )
    if bounds and derived.gpus:
        yield site.problem(
            "user_options.workers_per_node",
            "expected none on GPUs, where each GPU has one worker",
            "nothing: remove it",
        )
    if options.max_blocks and site.blocks.min > options.max_blocks.minimum:
        yield site.problem(
            "user_options.max_blocks.minimum",
            f"expected at least blocks.min ({site.blocks.min})",
            f"minimum: {site.blocks.min}",
        )


def sharing(site: Site) -> Iterator[Problem]:
    """Check that whoever may use the endpoint may also call its function."""
    multi = site.access.mode == "multi-user"
    if multi and site.access.function_sharing == "private":
        yield site.problem(
            "access.function_sharing",
            "expected public or a group for a multi-user endpoint: its users could not call "
            "a private function",
            "function_sharing: public",
        )


def asking(site: Site) -> Iterator[Problem]:
    """Check that a site whose users ask its scheduler has a login host and a scheduler."""
    if not site.login.ask_scheduler:
        return
    if not site.login.host:
        yield site.problem(
            "login.ask_scheduler", "expected login.host as well", "host: <the login host's name>"
        )
    kind = site.scheduler.type
    if kind not in BATCH:
        yield site.problem(
            "login.ask_scheduler",
            f"expected one of the schedulers {', '.join(BATCH)}, found {kind}",
            "nothing: remove it",
        )


def retired(site: Site) -> Iterator[Problem]:
    """Warn that a retired machine's file is a blueprint, not a site."""
    if site.status == "retired":
        yield site.problem(
            "status",
            "this machine is gone: the file is kept as a blueprint and cannot be deployed",
            "status: active, in a site file of your own that extends this one",
            "warning",
        )


RULES: tuple[Callable[[Site], Iterator[Problem]], ...] = (
    mode,
    assurance,
    options_apply,
    option_bounds,
    option_limits,
    sharing,
    asking,
    retired,
)
