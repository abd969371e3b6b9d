// Batch normalisation of a training step (arXiv:1502.03167, Algorithm 1), with the addition and the ReLU that
// follow it, for tensors in channels-last memory format: `rows` pixels of `channels` values each.
//
// bf16 and float values are computed in float, double values in double. The rows are divided into chunks that
// stay in a core's cache; sums of chunks are added in double, in order, so that the results do not depend on the
// number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
  uint16_t bits;
};

template <class T> struct Computation { using type = float; };
template <> struct Computation<double> { using type = double; };
template <class T> using real = typename Computation<T>::type;

inline double load(double value) { return value; }
inline float load(float value) { return value; }
inline float load(bf16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(double& target, double value) { target = value; }
inline void store(float& target, float value) { target = value; }
inline void store(bf16& target, float value) {  // rounds to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  target.bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

constexpr int64_t CHUNK_BYTES = 1 << 16;

struct Chunks {
  int64_t rows, step, count;

  Chunks(int64_t rows, int64_t row_bytes)
      : rows(rows), step(std::max<int64_t>(1, CHUNK_BYTES / row_bytes)), count((rows + step - 1) / step) {}
  int64_t begin(int64_t chunk) const { return chunk * step; }
  int64_t end(int64_t chunk) const { return std::min(rows, (chunk + 1) * step); }
  int64_t size(int64_t chunk) const { return end(chunk) - begin(chunk); }
};

constexpr int64_t WIDE = 64;  // values from which on a row fills vectors well

// How many pixels side by side count as one row, with `channels` channels for each: few channels would leave vectors
// nearly empty.
inline int64_t pixels_per_row(int64_t rows, int64_t channels) {
  int64_t pixels = 1;
  while (2 * pixels * channels <= WIDE && rows % (2 * pixels) == 0) pixels *= 2;
  return pixels;
}

// The first `channels` values, again for each pixel of a row.
template <class T> void repeat(T* values, int64_t channels, int64_t pixels) {
  for (int64_t i = channels; i < channels * pixels; i++) values[i] = values[i - channels];
}

// The mean of each channel, and its variance without Bessel's correction. Each chunk is read from memory once
// and from the cache a second time, for squares of small differences; chunks are merged by Chan's formula.
template <class T>
void statistics(const T* x, int64_t rows, int64_t channels, double* mean, double* variance, int threads) {
  const Chunks chunks(rows, channels * sizeof(T));
  std::vector<real<T>> partial(2 * chunks.count * channels);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < chunks.count; k++) {
    real<T>* __restrict sum = &partial[2 * k * channels];
    real<T>* __restrict squares = sum + channels;
    for (int64_t row = chunks.begin(k); row < chunks.end(k); row++) {
      const T* __restrict values = x + row * channels;
      for (int64_t c = 0; c < channels; c++) sum[c] += load(values[c]);
    }
    for (int64_t c = 0; c < channels; c++) sum[c] /= real<T>(chunks.size(k));
    for (int64_t row = chunks.begin(k); row < chunks.end(k); row++) {
      const T* __restrict values = x + row * channels;
      for (int64_t c = 0; c < channels; c++) {
        const real<T> difference = load(values[c]) - sum[c];
        squares[c] += difference * difference;
      }
    }
  }
  std::fill_n(mean, channels, 0.0);
  std::fill_n(variance, channels, 0.0);
  for (int64_t k = 0; k < chunks.count; k++) {
    const double before = chunks.begin(k), added = chunks.size(k), total = before + added;
    const real<T>* chunk_mean = &partial[2 * k * channels];
    const real<T>* squares = chunk_mean + channels;
    for (int64_t c = 0; c < channels; c++) {
      const double difference = chunk_mean[c] - mean[c];
      mean[c] += difference * (added / total);
      variance[c] += squares[c] + difference * difference * (before * added / total);
    }
  }
  for (int64_t c = 0; c < channels; c++) variance[c] /= double(rows);
}

// Normalisation as one multiplication and one addition a value.
template <class T>
void scale_and_shift(int64_t channels, const real<T>* weight, const real<T>* bias, const real<T>* mean,
                     const real<T>* inverse_std, real<T>* scale, real<T>* shift) {
  for (int64_t c = 0; c < channels; c++) {
    scale[c] = weight[c] * inverse_std[c];
    shift[c] = bias[c] - mean[c] * scale[c];
  }
}

// y = relu(x * scale + shift + residual), without the parts that are not asked for.
template <class T, bool RESIDUAL, bool RELU>
void apply(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const real<T>* __restrict scale,
           const real<T>* __restrict shift, int threads) {
  const Chunks chunks(rows, channels * sizeof(T));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < chunks.count; k++) {
    for (int64_t row = chunks.begin(k); row < chunks.end(k); row++) {
      const T* __restrict values = x + row * channels;
      const T* __restrict added = residual + row * channels;
      T* __restrict output = y + row * channels;
      for (int64_t c = 0; c < channels; c++) {
        real<T> value = load(values[c]) * scale[c] + shift[c];
        if (RESIDUAL) value += load(added[c]);
        if (RELU) value = value < 0 ? real<T>(0) : value;
        store(output[c], value);
      }
    }
  }
}

// The sign that the gradient of a ReLU needs is recomputed from x, or read from the output y where a residual
// was added.
enum Relu { NONE = 0, RECOMPUTED = 1, FROM_OUTPUT = 2 };

// `dresidual`, with FROM_OUTPUT alone: the gradient behind the ReLU, which is the residual's.
template <class T, Relu RELU>
void backward(const T* dy, const T* x, const T* y, T* dresidual, T* dx, int64_t num_pixels, int64_t num_channels,
              const real<T>* weight, const real<T>* bias, const real<T>* channel_mean, const real<T>* inverse_std,
              real<T>* dweight, real<T>* dbias, int threads) {
  const int64_t pixels = pixels_per_row(num_pixels, num_channels);
  const int64_t rows = num_pixels / pixels, channels = num_channels * pixels;
  const Chunks chunks(rows, channels * sizeof(T));
  std::vector<real<T>> partial(2 * chunks.count * channels), factors(5 * channels);
  real<T>* __restrict scale = factors.data();
  real<T>* __restrict shift = scale + channels;
  real<T>* __restrict slope = shift + channels;
  real<T>* __restrict offset = slope + channels;
  real<T>* __restrict mean = offset + channels;
  std::copy_n(channel_mean, num_channels, mean);
  scale_and_shift<T>(num_channels, weight, bias, mean, inverse_std, scale, shift);
  for (real<T>* values : {mean, scale, shift}) repeat(values, num_channels, pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < chunks.count; k++) {
    real<T>* __restrict sum = &partial[2 * k * channels];
    real<T>* __restrict products = sum + channels;
    for (int64_t row = chunks.begin(k); row < chunks.end(k); row++) {
      const int64_t start = row * channels;
      const T* __restrict gradients = dy + start;
      const T* __restrict values = x + start;
      const T* __restrict outputs = y + start;
      T* __restrict masked = dresidual + start;
      for (int64_t c = 0; c < channels; c++) {
        const real<T> value = load(values[c]);
        real<T> gradient = load(gradients[c]);
        if (RELU == RECOMPUTED) gradient = value * scale[c] + shift[c] > 0 ? gradient : real<T>(0);
        if (RELU == FROM_OUTPUT) {
          gradient = load(outputs[c]) > 0 ? gradient : real<T>(0);
          store(masked[c], gradient);
        }
        sum[c] += gradient;
        products[c] += gradient * (value - mean[c]);
      }
    }
  }
  std::vector<double> sums(2 * num_channels);
  for (int64_t row = 0; row < 2 * chunks.count * pixels; row++) {  // a row of sums, or of products, for each pixel
    double* target = &sums[row / pixels % 2 * num_channels];
    for (int64_t c = 0; c < num_channels; c++) target[c] += partial[row * num_channels + c];
  }
  // dx = scale * (gradient - sum / n - (x - mean) * inverse_std^2 * products / n) with n pixels
  for (int64_t c = 0; c < num_channels; c++) {
    const double inverse = inverse_std[c], sum = sums[c], products = sums[num_channels + c];
    dweight[c] = products * inverse;
    dbias[c] = sum;
    const double per_value = -double(scale[c]) * inverse * inverse * products / num_pixels;
    slope[c] = per_value;
    offset[c] = -double(scale[c]) * sum / num_pixels - per_value * mean[c];
  }
  for (real<T>* values : {slope, offset}) repeat(values, num_channels, pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t k = 0; k < chunks.count; k++) {
    for (int64_t row = chunks.begin(k); row < chunks.end(k); row++) {
      const int64_t start = row * channels;
      const T* __restrict gradients = (RELU == FROM_OUTPUT ? dresidual : dy) + start;
      const T* __restrict values = x + start;
      T* __restrict output = dx + start;
      for (int64_t c = 0; c < channels; c++) {
        const real<T> value = load(values[c]);
        real<T> gradient = load(gradients[c]);
        if (RELU == RECOMPUTED) gradient = value * scale[c] + shift[c] > 0 ? gradient : real<T>(0);
        store(output[c], gradient * scale[c] + (value * slope[c] + offset[c]));
      }
    }
  }
}

// The mean and the variance of a channel, in place, from those of each pixel of a row.
inline void merge(double* mean, double* variance, int64_t channels, int64_t pixels) {
  double total = 0, square = 0;
  for (int64_t p = 0; p < pixels; p++) total += mean[p * channels];
  total /= double(pixels);
  for (int64_t p = 0; p < pixels; p++) {
    const double difference = mean[p * channels] - total;
    square += variance[p * channels] + difference * difference;
  }
  *mean = total;
  *variance = square / double(pixels);
}

// mean and inverse_std of the batch; the running statistics, where there are some, move by `momentum`.
template <class T>
void normalize(const T* x, int64_t rows, int64_t channels, double eps, double momentum, real<T>* running_mean,
               real<T>* running_variance, real<T>* mean, real<T>* inverse_std, int threads) {
  const int64_t pixels = pixels_per_row(rows, channels);
  std::vector<double> moments(2 * channels * pixels);
  double* variance = moments.data() + channels * pixels;
  statistics(x, rows / pixels, channels * pixels, moments.data(), variance, threads);
  for (int64_t c = 0; c < channels; c++) {
    merge(&moments[c], &variance[c], channels, pixels);
    mean[c] = moments[c];
    inverse_std[c] = 1 / std::sqrt(variance[c] + eps);
    if (running_mean) {
      const double unbiased = variance[c] * (double(rows) / double(rows - 1));
      running_mean[c] = momentum * moments[c] + (1 - momentum) * running_mean[c];
      running_variance[c] = momentum * unbiased + (1 - momentum) * running_variance[c];
    }
  }
}

template <class T>
void forward(const T* x, const T* residual, T* y, int64_t rows, int64_t channels, const real<T>* weight,
             const real<T>* bias, const real<T>* mean, const real<T>* inverse_std, bool relu, int threads) {
  const int64_t pixels = pixels_per_row(rows, channels);
  std::vector<real<T>> factors(2 * channels * pixels);
  real<T>* scale = factors.data();
  real<T>* shift = scale + channels * pixels;
  scale_and_shift<T>(channels, weight, bias, mean, inverse_std, scale, shift);
  for (real<T>* values : {scale, shift}) repeat(values, channels, pixels);
  auto function = residual ? (relu ? apply<T, true, true> : apply<T, true, false>)
                           : (relu ? apply<T, false, true> : apply<T, false, false>);
  function(x, residual ? residual : x, y, rows / pixels, channels * pixels, scale, shift, threads);
}

}  // namespace

#define EXPORT(T, name)                                                                                             \
  extern "C" void statistics_##name(const T* x, int64_t rows, int64_t channels, double eps, double momentum,        \
                                    real<T>* running_mean, real<T>* running_variance, real<T>* mean,                \
                                    real<T>* inverse_std, int threads) {                                            \
    normalize(x, rows, channels, eps, momentum, running_mean, running_variance, mean, inverse_std, threads);        \
  }                                                                                                                 \
  extern "C" void forward_##name(const T* x, const T* residual, T* y, int64_t rows, int64_t channels,               \
                                 const real<T>* weight, const real<T>* bias, const real<T>* mean,                   \
                                 const real<T>* inverse_std, int relu, int threads) {                               \
    forward(x, residual, y, rows, channels, weight, bias, mean, inverse_std, relu != 0, threads);                   \
  }                                                                                                                 \
  extern "C" void backward_##name(const T* dy, const T* x, const T* y, T* dresidual, T* dx, int64_t rows,           \
                                  int64_t channels, const real<T>* weight, const real<T>* bias,                     \
                                  const real<T>* mean, const real<T>* inverse_std, real<T>* dweight,                \
                                  real<T>* dbias, int relu, int threads) {                                          \
    auto function = relu == NONE ? backward<T, NONE>                                                                \
                                 : (relu == RECOMPUTED ? backward<T, RECOMPUTED> : backward<T, FROM_OUTPUT>);       \
    function(dy, x, y ? y : x, dresidual ? dresidual : dx, dx, rows, channels, weight, bias, mean, inverse_std,     \
             dweight, dbias, threads);                                                                              \
  }

EXPORT(double, f64)
EXPORT(float, f32)
EXPORT(bf16, bf16)
