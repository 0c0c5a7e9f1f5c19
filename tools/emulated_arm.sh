#!/bin/bash
# Make a Python for 64-bit Arm that runs here under QEMU, with what the tests need (docs/testing.md).
#
#   tools/emulated_arm.sh FOLDER
#   FOLDER/python -m pytest tests/kernels
#
# It needs Debian or Ubuntu on another kind of CPU, with qemu-user. No package of this system is
# touched; delete the folder when it is no longer wanted.
set -euo pipefail

folder=$(realpath -m "$1")
package=$(realpath "$(dirname "$0")/..")
root=$folder/root
mkdir -p "$root" "$folder"/apt/{lists,cache/archives}/partial
touch "$folder/apt/status"

cat > "$folder/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$folder/apt";
Dir::State::status "$folder/apt/status";
Dir::State::lists "$folder/apt/lists";
Dir::Cache "$folder/apt/cache";
END
export APT_CONFIG=$folder/apt.conf
apt-get -qq update
apt-get -qq --yes --no-install-recommends --download-only install python3 libstdc++6 > /dev/null
for archive in "$folder"/apt/cache/archives/*.deb; do dpkg-deb --extract "$archive" "$root"; done

# QEMU would show LLVM this machine's features.
mkdir -p "$root/proc"
echo "Features : fp asimd asimddp" > "$root/proc/cpuinfo"

# Tests start processes by sys.executable, which must be the emulated Python, too.
cat > "$folder/python" <<END
#!/bin/sh
exec qemu-aarch64 -cpu "\${ARM_CPU:-max}" -L "$root" -E PYTHONPATH="$folder/site:$package" \\
    "$root/usr/bin/python3" "\$@"
END
chmod +x "$folder/python"
mkdir -p "$folder/site"
echo "import sys; sys.executable = '$folder/python'" > "$folder/site/sitecustomize.py"

version=$("$folder/python" -c 'import sys; print(*sys.version_info[:2], sep=".")')
python3 -m pip --quiet --disable-pip-version-check install --target "$folder/site" \
    --python-version "$version" --only-binary :all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    huggingface_hub hypothesis 'llvmlite<0.51' msgspec 'numba<0.69' numpy psutil pytest pytest-timeout \
    rich safetensors threadpoolctl tokenizers 'typer<0.29' xxhash
"$folder/python" -c 'import numpy, platform; print("Python", platform.python_version(), platform.machine())'
