"""qsub, qstat and qdel of the simulated PBS: they ask its server, as the user who runs them."""

import json
import os
import socket
import sys

_WITH_VALUE = set("aACceIjJklmMNoPpqrSuvWwx")


def _script(arguments: list[str]) -> str:
    """Return the text of a job: of a file, or of the standard input."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            return " ".join(words)
        if word.startswith("-"):
            if word[1] in _WITH_VALUE and len(word) == 2:
                next(words, None)
        else:
            with open(word, encoding="utf-8") as stream:  # noqa: PTH123 - starts fast
                return stream.read()
    return sys.stdin.read()


def main() -> int:
    command = os.path.basename(sys.argv[0])  # noqa: PTH119 - starts fast
    asked: dict[str, object] = {"command": command, "arguments": sys.argv[1:], "cwd": os.getcwd()}  # noqa: PTH109
    if command == "qsub":
        try:
            asked["script"] = _script(sys.argv[1:])
        except OSError as error:
            print(f"qsub: script file {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 1
        asked["environment"] = dict(os.environ)
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect("/srv/pbs/socket")
        except OSError:
            server = "pbs"
            print(f"Connection refused\n{command}: cannot connect to server {server} (errno=111)",  # noqa: T201
                  file=sys.stderr)  # fmt: skip
            return 111
        connection.sendall(json.dumps(asked).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    told = json.loads(answer)
    sys.stdout.write(told["out"])
    sys.stderr.write(told["err"])
    return int(told["code"])


if __name__ == "__main__":
    sys.exit(main())
