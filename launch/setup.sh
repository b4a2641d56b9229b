# Sourced by the other scripts: an environment with mmjax in it, as $python.
#
#   PYTHON=python3.12     interpreter of a new environment (default python3)
#   EXTRAS=cuda13,npm     further extras of pyproject.toml to install
#
# An active virtual environment is used; else one is made in .venv beside the project. pip, or uv where it is
# installed. A second call with the same pyproject.toml, interpreter and extras installs nothing.

setup() { # setup EXTRA...
  local extras="${EXTRAS:-}" venv="${VIRTUAL_ENV:-$PWD/.venv}" extra version constraints stamp
  for extra in "$@"; do extras="${extras:+$extras,}$extra"; done
  # The emoji data set is fetched with npm's client.
  command -v npm >/dev/null || extras="${extras:+$extras,}npm"
  if [ ! -x "$venv/bin/python" ]; then
    echo "making a virtual environment in $venv"
    with_heartbeat "${PYTHON:-python3}" -m venv "$venv"
  fi
  python="$venv/bin/python"
  version=$(version_of "$python")
  if [ -n "${PYTHON:-}" ] && [ "$(version_of "$PYTHON")" != "$version" ]; then
    echo "PYTHON=$PYTHON is not the interpreter of $venv ($version); unset it, or remove that environment" >&2
    return 78
  fi
  constraints="constraints-$version.txt"
  stamp="$version $extras $(cat pyproject.toml "$constraints" 2>/dev/null | cksum)"
  if [ "$(cat "$venv/.mmjax" 2>/dev/null)" = "$stamp" ]; then return; fi
  local -a pip=("$python" -m pip install) arguments=(--editable ".${extras:+[$extras]}")
  if command -v uv >/dev/null; then pip=(uv pip install --python "$python"); fi
  if [ -f "$constraints" ]; then arguments+=(--constraint "$constraints"); fi
  echo "installing mmjax and what it needs with ${pip[*]:0:3}"
  with_heartbeat "${pip[@]}" "${arguments[@]}"
  echo "$stamp" >"$venv/.mmjax"
}

version_of() { # version_of PYTHON: py311
  "$1" -c 'import sys; print("py%d%d" % sys.version_info[:2])'
}

with_heartbeat() { # with_heartbeat COMMAND...: says every 8 s that it goes on
  local begin=$SECONDS beat status=0
  while sleep 8; do echo "  still installing ($((SECONDS - begin)) s)"; done &
  beat=$!
  "$@" || status=$?
  kill "$beat"
  wait "$beat" 2>/dev/null || true
  return "$status"
}
