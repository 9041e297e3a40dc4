#!/usr/bin/env bash
# benchmarks/triton.sh DIR: makes DIR a Triton inference server with the onnxruntime backend, for `bench.py --triton DIR`.
#
# The server is the binary in NVIDIA's wheel nvidia-pytriton. Its onnxruntime backend, which no package carries, is
# compiled here from NVIDIA's sources of the same release against the onnxruntime of this checkout, CPU only.
# Needs: g++ with C++17, git, unzip, pip's index and github.com. Linux on x86-64 with glibc 2.35 or newer.
set -euo pipefail

dir=${1:?expected a folder to make}
wheel=nvidia-pytriton==0.7.0            # Triton 2.51.0
release=r24.10                          # which is this branch of its sources
headers=${ORT_HEADERS_TAG:-v1.22.0}     # any release up to the library's own: the C interface only grows
python=$(dirname "$0")/../.venv/bin/python
python=$(cd "$(dirname "$python")" && pwd)/python

mkdir -p "$dir"/{bin,lib,backends/onnxruntime,src,obj}
cd "$dir"
dir=$PWD

"$python" -m pip --disable-pip-version-check download --quiet --no-deps --dest src "$wheel"
unzip -q -o src/nvidia_pytriton-*.whl 'pytriton/tritonserver/bin/*' 'nvidia_pytriton.libs/*' -d src/wheel
cp src/wheel/pytriton/tritonserver/bin/tritonserver bin/
chmod +x bin/tritonserver
cp src/wheel/nvidia_pytriton.libs/* lib/

for part in onnxruntime_backend backend core common; do
  [ -d "src/$part" ] || git clone --quiet --depth 1 --branch "$release" \
    "https://github.com/triton-inference-server/$part" "src/$part"
done
[ -d src/rapidjson ] || git clone --quiet --depth 1 https://github.com/Tencent/rapidjson src/rapidjson
if [ ! -d src/onnxruntime ]; then
  git clone --quiet --depth 1 --filter=blob:none --sparse --branch "$headers" \
    https://github.com/microsoft/onnxruntime src/onnxruntime
  git -C src/onnxruntime sparse-checkout set include/onnxruntime/core/session
fi

out=$dir/backends/onnxruntime
library=$("$python" -c 'import onnxruntime, pathlib; print(*pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))')
cp "$library" "$out/libonnxruntime.so"
ln -sf libonnxruntime.so "$out/libonnxruntime.so.1"

cd obj
include=(-I../src/onnxruntime/include/onnxruntime/core/session -I../src/onnxruntime_backend/src -I../src/backend/include
  -I../src/core/include -I../src/common/include -I../src/rapidjson/include)
# device_memory_tracker.cc is for GPUs.
for file in ../src/onnxruntime_backend/src/*.cc ../src/backend/src/backend_*.cc \
  ../src/common/src/{async_work_queue,error,thread_pool}.cc; do
  g++ -std=c++17 -O3 -DNDEBUG -fPIC -w -DTRITON_ENABLE_STATS=1 "${include[@]}" -c "$file"
done
# The symbols of the server's own interface are in the process that loads this.
g++ -shared -o "$out/libtriton_onnxruntime.so" ./*.o -L"$out" -lonnxruntime -lpthread -Wl,-rpath,'$ORIGIN' \
  -Wl,--version-script=../src/onnxruntime_backend/src/libtriton_onnxruntime.ldscript
echo "ready: $dir"
