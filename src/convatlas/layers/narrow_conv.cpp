// Convolutions between few maps, forward and backward. Where oneDNN's vectors hold output maps and stay half empty,
// a vector here holds the same pixel of LANES images.
//
// Maps lie in memory as (channels, height, width, images). An output map is connected to some of the input maps, by a
// kernel of KERNEL x KERNEL for each. LANES images at a time are copied into a block that stays in a core's cache; sums
// of blocks are added in double, in order, so that the results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int KERNEL = 5;
constexpr int MAX_TILE = 7;  // output pixels whose sums stay in registers
#ifdef __AVX512F__
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <class T> struct Vector { typedef T type __attribute__((vector_size(VECTOR_BYTES))); };
template <class T> using vec = typename Vector<T>::type;
template <class T> constexpr int64_t LANES = VECTOR_BYTES / sizeof(T);

struct Connection {
  int64_t output, input;
};

// Copy one pixel of `count` images. A whole vector is a single instruction.
template <class T> void copy(T* target, const T* source, int64_t count) {
  if (count == LANES<T>)
    std::memcpy(target, source, VECTOR_BYTES);
  else
    std::memcpy(target, source, count * sizeof(T));
}

// The rows of LANES images from `first` on, with `margin` zeros at both ends; images beyond the last are zeros.
template <class T>
std::vector<vec<T>> load(const T* maps, int64_t rows, int64_t width, int64_t images, int64_t first, int64_t margin) {
  const int64_t stride = width + 2 * margin, count = std::min(LANES<T>, images - first);
  std::vector<vec<T>> block(rows * stride);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t x = 0; x < width; x++)
      copy(reinterpret_cast<T*>(&block[row * stride + margin + x]), maps + (row * width + x) * images + first, count);
  return block;
}

// A map of LANES images: its rows, one after another.
template <class T> struct Map {
  const vec<T>* rows;
  int64_t height, stride;
};

// COUNT pixels of row y of an output map, from column x on: bias plus kernels times the maps that `first` to `last`
// connect. Rows outside of a map are zeros; `margin` of them are above it.
template <class T, int COUNT>
void convolve_tile(const Map<T>& block, const Connection* first, const Connection* last, const T* kernels, T bias,
                   int64_t y, int64_t x, int64_t margin, vec<T>* output) {
  vec<T> sums[COUNT];
  for (int t = 0; t < COUNT; t++) sums[t] = vec<T>{} + bias;
  const int64_t top = std::max<int64_t>(0, margin - y), bottom = std::min<int64_t>(KERNEL, block.height + margin - y);
  for (const Connection* c = first; c < last; c++, kernels += KERNEL * KERNEL) {
    const vec<T>* input = block.rows + (c->input * block.height + y - margin) * block.stride + x;
    for (int64_t ky = top; ky < bottom; ky++)
      for (int kx = 0; kx < KERNEL; kx++) {
        const T weight = kernels[ky * KERNEL + kx];
        for (int t = 0; t < COUNT; t++) sums[t] += input[ky * block.stride + kx + t] * weight;
      }
  }
  for (int t = 0; t < COUNT; t++) output[t] = sums[t];
}

template <class T>
constexpr decltype(&convolve_tile<T, 1>) TILES[MAX_TILE + 1] = {
    nullptr,             convolve_tile<T, 1>, convolve_tile<T, 2>, convolve_tile<T, 3>,
    convolve_tile<T, 4>, convolve_tile<T, 5>, convolve_tile<T, 6>, convolve_tile<T, 7>};

// `connections` are in the order of their output maps. `margin`: rows and columns of zeros around the input maps.
template <class T>
void convolve(const T* input, const T* kernels, const T* bias, T* output, const Connection* connections,
              int64_t num_connections, int64_t in_maps, int64_t in_height, int64_t in_width, int64_t out_maps,
              int64_t margin, int64_t images, int threads) {
  const int64_t stride = in_width + 2 * margin, width = stride - KERNEL + 1;
  const int64_t height = in_height + 2 * margin - KERNEL + 1, tiles = (width + MAX_TILE - 1) / MAX_TILE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t image = 0; image < images; image += LANES<T>) {
    const std::vector<vec<T>> rows = load(input, in_maps * in_height, in_width, images, image, margin);
    const Map<T> block{rows.data(), in_height, stride};
    const int64_t lanes = std::min(LANES<T>, images - image);
    const Connection *first = connections, *end = connections + num_connections;
    for (int64_t map = 0; map < out_maps; map++) {
      const Connection* last = first;
      while (last < end && last->output == map) last++;
      for (int64_t y = 0; y < height; y++) {
        T* target = output + (map * height + y) * width * images + image;
        for (int64_t tile = 0, x = 0; tile < tiles; tile++) {
          vec<T> pixels[MAX_TILE];
          const int64_t count = (width - x) / (tiles - tile);  // tiles of about the same size
          TILES<T>[count](block, first, last, kernels + (first - connections) * KERNEL * KERNEL,
                          bias ? bias[map] : T(0), y, x, margin, pixels);
          for (int64_t t = 0; t < count; t++)
            copy(target + (x + t) * images, reinterpret_cast<const T*>(&pixels[t]), lanes);
          x += count;
        }
      }
      first = last;
    }
  }
}

template <class T> T sum_of_lanes(const vec<T>& values) {
  T sum = 0;
  for (int64_t lane = 0; lane < LANES<T>; lane++) sum += values[lane];
  return sum;
}

// The gradient of one row of a kernel. Two pixels have sums of their own: a processor starts the next addition to a
// sum only after the last has ended.
template <class T>
void kernel_row_gradient(const vec<T>* gradient, const vec<T>* input, int64_t height, int64_t width, int64_t stride,
                         T* result) {
  vec<T> even[KERNEL] = {}, odd[KERNEL] = {};
  for (int64_t y = 0; y < height; y++, gradient += width, input += stride) {
    int64_t x = 0;
    for (; x + 1 < width; x += 2)
      for (int kx = 0; kx < KERNEL; kx++) {
        even[kx] += gradient[x] * input[x + kx];
        odd[kx] += gradient[x + 1] * input[x + 1 + kx];
      }
    if (x < width)
      for (int kx = 0; kx < KERNEL; kx++) even[kx] += gradient[x] * input[x + kx];
  }
  for (int kx = 0; kx < KERNEL; kx++) result[kx] = sum_of_lanes<T>(even[kx] + odd[kx]);
}

template <class T>
void weight_gradient(const T* gradient, const T* input, T* dkernels, T* dbias, const Connection* connections,
                     int64_t num_connections, int64_t in_maps, int64_t in_height, int64_t in_width, int64_t out_maps,
                     int64_t images, int threads) {
  const int64_t height = in_height - KERNEL + 1, width = in_width - KERNEL + 1, pixels = height * width;
  const int64_t blocks = (images + LANES<T> - 1) / LANES<T>, weights = num_connections * KERNEL * KERNEL;
  std::vector<T> partial(blocks * (weights + out_maps));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t b = 0; b < blocks; b++) {
    const std::vector<vec<T>> values = load(input, in_maps * in_height, in_width, images, b * LANES<T>, 0);
    const std::vector<vec<T>> gradients = load(gradient, out_maps * height, width, images, b * LANES<T>, 0);
    T* result = &partial[b * (weights + out_maps)];
    for (int64_t c = 0; c < num_connections; c++)
      for (int ky = 0; ky < KERNEL; ky++, result += KERNEL)
        kernel_row_gradient<T>(&gradients[connections[c].output * pixels],
                               &values[(connections[c].input * in_height + ky) * in_width], height, width, in_width,
                               result);
    for (int64_t map = 0; map < out_maps; map++) {
      vec<T> sum = {};
      for (int64_t i = 0; i < pixels; i++) sum += gradients[map * pixels + i];
      result[map] = sum_of_lanes<T>(sum);
    }
  }
  std::vector<double> sums(weights + out_maps);
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t i = 0; i < weights + out_maps; i++) sums[i] += partial[b * (weights + out_maps) + i];
  std::copy_n(sums.begin(), weights, dkernels);
  std::copy_n(sums.begin() + weights, out_maps, dbias);
}

}  // namespace

#define EXPORT(T, name)                                                                                             \
  extern "C" void convolve_##name(const T* input, const T* kernels, const T* bias, T* output,                       \
                                  const Connection* connections, int64_t num_connections, int64_t in_maps,          \
                                  int64_t in_height, int64_t in_width, int64_t out_maps, int64_t margin,            \
                                  int64_t images, int threads) {                                                    \
    convolve(input, kernels, bias, output, connections, num_connections, in_maps, in_height, in_width, out_maps,    \
             margin, images, threads);                                                                              \
  }                                                                                                                 \
  extern "C" void weight_gradient_##name(const T* gradient, const T* input, T* dkernels, T* dbias,                  \
                                         const Connection* connections, int64_t num_connections, int64_t in_maps,   \
                                         int64_t in_height, int64_t in_width, int64_t out_maps, int64_t images,     \
                                         int threads) {                                                             \
    weight_gradient(gradient, input, dkernels, dbias, connections, num_connections, in_maps, in_height, in_width,   \
                    out_maps, images, threads);                                                                     \
  }

EXPORT(double, f64)
EXPORT(float, f32)
