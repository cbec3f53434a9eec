#!/usr/bin/env bash
# A base image for a machine that reaches Debian's packages but no container registry: Debian 12's
# own Python 3.11. Root only. It trusts the certificate authorities that this machine trusts, so
# that pip gets through a proxy that has its own: for tests on this machine, never to be pushed.
#
#     container/base.sh podman [NAME]    # NAME: localhost/offramp-base:3.11
set -euo pipefail
engine=${1:?"usage: $0 docker|podman [NAME]"}
name=${2:-localhost/offramp-base:3.11}
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root, found user $(id -un)" >&2; exit 2; }
command -v debootstrap >/dev/null || {
  echo "error: no debootstrap here; on Debian: apt-get install debootstrap" >&2
  exit 2
}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

packages=python3,python3-pip,python3-venv,ca-certificates
debootstrap --variant=minbase --include="$packages" bookworm "$root"
ln -s python3 "$root/usr/bin/python"
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
if compgen -G "/usr/local/share/ca-certificates/*.crt" >/dev/null; then
  cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates
fi
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
# pip in a venv, and uv, trust lists of their own, unless told
trusted=/etc/ssl/certs/ca-certificates.crt
tar -C "$root" -c . |
  "$engine" import --change "ENV PIP_CERT=$trusted" --change "ENV SSL_CERT_FILE=$trusted" - "$name"
