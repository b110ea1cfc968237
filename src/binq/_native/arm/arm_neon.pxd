# The NEON intrinsics that binq uses. The vector types are opaque structs to Cython, so that no
# operator compiles on them by accident.

from libc.stdint cimport int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t

cdef extern from "arm_neon.h" nogil:
    ctypedef struct int8x8_t:
        pass
    ctypedef struct int8x16_t:
        pass
    ctypedef struct uint8x16_t:
        pass
    ctypedef struct uint8x16x4_t:
        uint8x16_t val[4]
    ctypedef struct int16x4_t:
        pass
    ctypedef struct int16x8_t:
        pass
    ctypedef struct uint16x4_t:
        pass
    ctypedef struct int32x4_t:
        pass
    ctypedef struct uint32x4_t:
        pass
    ctypedef struct float16x4_t:
        pass
    ctypedef struct float32x4_t:
        pass

    uint8x16_t vld1q_u8(const uint8_t *p) noexcept
    int8x16_t vld1q_s8(const int8_t *p) noexcept
    int16x8_t vld1q_s16(const int16_t *p) noexcept
    uint16x4_t vld1_u16(const uint16_t *p) noexcept
    float32x4_t vld1q_f32(const float *p) noexcept
    uint8x16x4_t vld4q_u8(const uint8_t *p) noexcept
    void vst1_s8(int8_t *p, int8x8_t v) noexcept
    void vst1q_s8(int8_t *p, int8x16_t v) noexcept
    void vst1q_s16(int16_t *p, int16x8_t v) noexcept
    void vst1q_f32(float *p, float32x4_t v) noexcept

    uint8x16_t vdupq_n_u8(uint8_t x) noexcept
    int8x8_t vdup_n_s8(int8_t x) noexcept
    int8x16_t vdupq_n_s8(int8_t x) noexcept
    int16x8_t vdupq_n_s16(int16_t x) noexcept
    int32x4_t vdupq_n_s32(int32_t x) noexcept
    float32x4_t vdupq_n_f32(float x) noexcept

    uint8x16_t vandq_u8(uint8x16_t a, uint8x16_t b) noexcept
    uint8x16_t vshrq_n_u8(uint8x16_t a, int n) noexcept
    int8x16_t vqtbl1q_s8(int8x16_t table, uint8x16_t at) noexcept
    uint8x16_t vtstq_u8(uint8x16_t a, uint8x16_t b) noexcept
    int8x16_t vreinterpretq_s8_u8(uint8x16_t a) noexcept
    int8x16_t vaddq_s8(int8x16_t a, int8x16_t b) noexcept
    int8x16_t vsubq_s8(int8x16_t a, int8x16_t b) noexcept

    int8x8_t vget_low_s8(int8x16_t a) noexcept
    int8x8_t vget_high_s8(int8x16_t a) noexcept
    int16x4_t vget_low_s16(int16x8_t a) noexcept
    int16x4_t vget_high_s16(int16x8_t a) noexcept
    int16x8_t vmovl_s8(int8x8_t a) noexcept
    int32x4_t vmovl_s16(int16x4_t a) noexcept
    int16x8_t vmlal_s8(int16x8_t acc, int8x8_t a, int8x8_t b) noexcept
    int32x4_t vmlal_n_s16(int32x4_t acc, int16x4_t a, int16_t b) noexcept
    int32x4_t vaddw_s16(int32x4_t acc, int16x4_t a) noexcept

    float16x4_t vreinterpret_f16_u16(uint16x4_t a) noexcept
    float32x4_t vcvt_f32_f16(float16x4_t a) noexcept
    float32x4_t vcvtq_f32_s32(int32x4_t a) noexcept
    float32x4_t vabsq_f32(float32x4_t a) noexcept
    uint32x4_t vreinterpretq_u32_f32(float32x4_t a) noexcept
    uint32x4_t vdupq_n_u32(uint32_t x) noexcept
    uint32x4_t vmaxq_u32(uint32x4_t a, uint32x4_t b) noexcept
    uint32_t vmaxvq_u32(uint32x4_t a) noexcept
    int32x4_t vcvtnq_s32_f32(float32x4_t a) noexcept
    int32x4_t vaddq_s32(int32x4_t a, int32x4_t b) noexcept
    int32_t vaddvq_s32(int32x4_t a) noexcept
    int16x4_t vmovn_s32(int32x4_t a) noexcept
    int16x8_t vcombine_s16(int16x4_t low, int16x4_t high) noexcept
    int8x8_t vmovn_s16(int16x8_t a) noexcept
    float32x4_t vmulq_f32(float32x4_t a, float32x4_t b) noexcept
    float32x4_t vmulq_n_f32(float32x4_t a, float b) noexcept
    float32x4_t vaddq_f32(float32x4_t a, float32x4_t b) noexcept
    float32x4_t vfmaq_n_f32(float32x4_t acc, float32x4_t a, float b) noexcept
