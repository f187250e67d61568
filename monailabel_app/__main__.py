"""Start the annotation server: python -m monailabel_app --studies DIR_OR_URL."""

import functools
import json
import os
import sys
from pathlib import Path

import fire

APP = Path(__file__).resolve().parent
sys.path[:0] = [str(APP.parent), str(APP.parent / "bundle")]


def serve(
    studies: str,
    *,
    host: str = "127.0.0.1",
    port: str = "8000",
    token: str | None = None,
    token_file: str | None = None,
    origins: str = "",
    state_dir: str = "",
    phases: str = "key",
    device: str = "",
    dicomweb_filter: str = "",
) -> None:
    """Serve STUDIES to 3D Slicer and OHIF for annotation.

    Other machines are served only with a token (or Keycloak, MONAI_LABEL_AUTH_ENABLE) and with the addresses they use.

    Args:
        studies: a folder of images and DICOM studies, or the URL of a DICOMweb server.
        host: address to listen on; 127.0.0.1 is this machine only.
        port: port to listen on.
        token: secret of at least 16 characters that users sign in with. Other users of this machine see it in
            the list of processes: rather set the environment's CARDIAC_LABEL_TOKEN, or token_file.
        token_file: file that holds the token.
        origins: addresses that browsers reach the server under, such as https://label.example.org; comma-separated.
        state_dir: folder for labels, models and logs; default: a folder per STUDIES in ~/.local/state/cardiac_label.
        phases: key, to list end-diastole and end-systole, or all.
        device: cpu or cuda:0, for example. Default: the first GPU, and the CPU where there is none.
        dicomweb_filter: JSON object of further QIDO matching keys.
    """
    from cardiac_cine.errors import InputError
    from monailabel_app.lib.access import TOKEN_VARIABLE, Access, chosen_token, is_loopback, parse_origins

    if token_file is not None and not Path(token_file).is_file():
        raise InputError(f"--token_file {token_file}: there is no such file")
    in_file = Path(token_file).read_text() if token_file else None
    places = {"--token": token, "--token_file": in_file, TOKEN_VARIABLE: os.environ.get(TOKEN_VARIABLE)}
    keycloak = os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes", "on")
    access = Access(chosen_token(places), parse_origins(origins), keycloak)
    if not is_loopback(host) and not (access.origins and (access.token or keycloak)):
        raise InputError(f"--host {host}: other machines are served only with --origins and a token")
    if "://" not in studies and not Path(studies).expanduser().exists():
        raise InputError(f"--studies {studies}: there is no such file or folder")
    if not port.isdecimal():
        raise InputError(f"--port {port}: a number is expected")
    studies = studies if "://" in studies else str(Path(studies).expanduser().resolve())
    conf = {"origins": origins, "state_dir": state_dir, "phases": phases, "device": device}
    conf |= {"dicomweb_filter": dicomweb_filter}
    own = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    os.environ |= {TOKEN_VARIABLE: access.token} if access.token else {}
    os.environ |= {
        "MONAI_LABEL_APP_DIR": str(APP),
        "MONAI_LABEL_STUDIES": studies,
        "MONAI_LABEL_APP_CONF": json.dumps({key: value for key, value in conf.items() if value}),
        "MONAI_LABEL_SERVER_PORT": port,
        "MONAI_LABEL_CORS_ORIGINS": json.dumps([own, *sorted(access.origins)]),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # MONAI Label's child processes expect it to exist
    }
    os.umask(0o077)  # nothing is written before
    import uvicorn

    from monailabel_app.lib.state import State

    print(f"{own}/ohif/ for {studies}; labels and models in {State.of(studies, state_dir).root}", flush=True)
    uvicorn.run(
        "monailabel.app:app",
        host=host,
        port=int(port),
        access_log=False,  # it would hold the sessions of addresses that carry one
        server_header=False,
        limit_concurrency=200,
        timeout_graceful_shutdown=5,
    )


def main() -> int:
    """Parse the command line, and only then start: Fire tells a mistyped flag after the call."""
    arguments = []  # all values are text, also those that Fire would take for numbers
    for argument in sys.argv[1:]:
        flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        arguments.append(f"{flag}{equals}{value!r}" if equals or not flag else argument)
    parse = functools.wraps(serve)(lambda *args, **kwargs: {"call": (args, kwargs)})
    parsed = fire.Fire(parse, command=arguments, name="monailabel_app", serialize=lambda _: None)
    from cardiac_cine.errors import InputError

    try:
        args, kwargs = parsed["call"]
        serve(*args, **kwargs)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
