#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what packaging/apt-packages.txt names and this machine lacks, and says what. When nothing is missing it says nothing.
set -eu
cd "$(dirname "$0")/.."

say() { echo "install-packages: $*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# names FILE: the packages in FILE
names() { sed 's/#.*//' "$1" | tr -s ' \n' '\n\n' | sed '/^$/d'; }

install_debian() {
    wanted=$(names packaging/apt-packages.txt)
    # Unknown packages make dpkg-query exit with 1; they are missing, which is what it is asked about.
    installed=" $(dpkg-query -W -f '${db:Status-Status}=${Package} ' $wanted 2>/dev/null || true)"
    missing=
    for package in $wanted; do
        case $installed in
        *" installed=$package "*) ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    say "installing$missing, and what they depend on"
    install="env DEBIAN_FRONTEND=noninteractive apt-get install -qq -o Dpkg::Use-Pty=0 --no-install-recommends"
    # A fresh machine may have no package lists, or lists so old that the archive no longer has what they name.
    if ! apt-cache show $missing >/dev/null 2>&1 || ! as_root $install $missing >/dev/null; then
        say "reading the package lists anew"
        as_root apt-get update -qq
        as_root $install $missing >/dev/null
    fi
}

# libvirt's QEMU driver looks this user up even where it is told to run guests as somebody else, and does not start without
# it. Debian makes it in libvirt-daemon-system, which would bring a running libvirtd with it; this is the same user.
add_libvirt_user() {
    if ! getent group kvm >/dev/null; then
        say "adding the group kvm"
        as_root groupadd --system kvm
    fi
    if ! getent group libvirt-qemu >/dev/null; then
        say "adding the group libvirt-qemu"
        as_root groupadd --gid 64055 libvirt-qemu
    fi
    if ! getent passwd libvirt-qemu >/dev/null; then
        say "adding the user libvirt-qemu, for libvirt"
        as_root useradd -K UID_MAX=64055 --uid 64055 --gid kvm --groups libvirt-qemu --comment "Libvirt Qemu" \
            --home-dir /var/lib/libvirt --no-create-home --shell /usr/sbin/nologin libvirt-qemu
    fi
}

if command -v dpkg-query >/dev/null; then
    install_debian
    add_libvirt_user
elif command -v dnf >/dev/null; then
    say "warning: nobody has tried packaging/dnf-packages.txt yet"
    as_root dnf install -y $(names packaging/dnf-packages.txt)
else
    say "this machine has neither apt nor dnf; install what packaging/apt-packages.txt names by other means" >&2
    exit 1
fi
