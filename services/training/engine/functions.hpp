// Functions of one number, in a form that compilers turn into vector instructions.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

// e^x to 2 units in the last place (the polynomial of Cephes' expf); NaN stays NaN.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: what is added rounds to an integer
    const float power = shifted - 12582912.0f;
    float r = x - power * 0.693359375f;
    r = r + power * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// tanh x to 2 units in the last place: Cephes' polynomial near zero, and by e^2x elsewhere.
inline float tangent(float x) {
    const float square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float near = p * square * x + x;
    const float size = x < 0.0f ? -x : x;
    const float far = 1.0f - 2.0f / (1.0f + exponential(2.0f * size));
    return size < 0.625f ? near : (x < 0.0f ? -far : far);
}

}  // namespace
