"""What runs on a node: it takes an encoded task, fits, and returns an encoded result.

`run` is the one entry point. Importing this package is cheap; pyhf and JAX are imported
by the first task, in the worker's process.
"""

__all__ = ["run"]


def run(task: str) -> str:
    """Do one encoded task, and return its encoded result.

    Parameters
    ----------
    task
        JSON text made by `fitserve_contract.encode_task`.

    Returns
    -------
    str
        JSON text for `fitserve_contract.decode_result`: a result for every hypothesis, or
        a refusal with its reason where the task cannot be read. It never raises.
    """
    from fitserve_worker.entry import answer

    return answer(task)
