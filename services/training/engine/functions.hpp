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

// tanh x to 5 units in the last place: a quotient of polynomials in x^2 (the one of Eigen), which is 1 beyond 7.9. By
// e^2x and a polynomial near zero it would take twice as long.
inline float fast_tanh(float x) {
    constexpr float END = 7.90531110763549805f;
    x = x < -END ? -END : (x > END ? END : x);
    const float square = x * x;
    float p = -2.76076847742355e-16f;
    p = p * square + 2.00018790482477e-13f;
    p = p * square - 8.60467152213735e-11f;
    p = p * square + 5.12229709037114e-08f;
    p = p * square + 1.48572235717979e-05f;
    p = p * square + 6.37261928875436e-04f;
    p = p * square + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * square + 1.18534705686654e-04f;
    q = q * square + 2.26843463243900e-03f;
    q = q * square + 4.89352518554385e-03f;
    return x * p / q;
}

}  // namespace
