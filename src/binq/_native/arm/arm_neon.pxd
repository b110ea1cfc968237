# The NEON intrinsics that binq uses. The vector types are opaque structs to Cython, so that no
# operator compiles on them by accident.

from libc.stdint cimport int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, uint64_t

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
    ctypedef struct int8x16x4_t:
        int8x16_t val[4]
    ctypedef struct uint8x8_t:
        pass
    ctypedef struct uint16x8_t:
        pass
    ctypedef struct uint64x2_t:
        pass
    ctypedef struct int64x2_t:
        pass
    ctypedef struct int32x2_t:
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
    int8x16_t vandq_s8(int8x16_t a, int8x16_t b) noexcept
    int8x16_t vaddq_s8(int8x16_t a, int8x16_t b) noexcept
    int8x16_t vsubq_s8(int8x16_t a, int8x16_t b) noexcept
    uint8x16_t vbslq_u8(uint8x16_t mask, uint8x16_t a, uint8x16_t b) noexcept
    uint8x16_t vshlq_n_u8(uint8x16_t a, int n) noexcept
    uint8x16_t vzip1q_u8(uint8x16_t a, uint8x16_t b) noexcept
    uint8x16_t vzip2q_u8(uint8x16_t a, uint8x16_t b) noexcept
    int8x16_t vzip1q_s8(int8x16_t a, int8x16_t b) noexcept
    int8x16_t vzip2q_s8(int8x16_t a, int8x16_t b) noexcept
    uint16x8_t vzip1q_u16(uint16x8_t a, uint16x8_t b) noexcept
    uint16x8_t vzip2q_u16(uint16x8_t a, uint16x8_t b) noexcept
    uint8x16_t veorq_u8(uint8x16_t a, uint8x16_t b) noexcept
    uint8x16_t vorrq_u8(uint8x16_t a, uint8x16_t b) noexcept
    uint8_t vaddv_u8(uint8x8_t a) noexcept
    uint8x8_t vget_high_u8(uint8x16_t a) noexcept
    uint8x16_t vreinterpretq_u8_u64(uint64x2_t a) noexcept
    uint8x16_t vreinterpretq_u8_u32(uint32x4_t a) noexcept
    uint32x4_t vreinterpretq_u32_u8(uint8x16_t a) noexcept
    uint32x4_t vuzp1q_u32(uint32x4_t a, uint32x4_t b) noexcept
    uint32x4_t vuzp2q_u32(uint32x4_t a, uint32x4_t b) noexcept
    uint32_t vgetq_lane_u32(uint32x4_t a, int lane) noexcept
    int32x4_t vtrn1q_s32(int32x4_t a, int32x4_t b) noexcept
    int32x4_t vtrn2q_s32(int32x4_t a, int32x4_t b) noexcept
    int64x2_t vtrn1q_s64(int64x2_t a, int64x2_t b) noexcept
    int64x2_t vtrn2q_s64(int64x2_t a, int64x2_t b) noexcept
    int64x2_t vreinterpretq_s64_s32(int32x4_t a) noexcept
    int8x16_t vreinterpretq_s8_s64(int64x2_t a) noexcept
    uint16x8_t vreinterpretq_u16_u8(uint8x16_t a) noexcept
    uint8x16_t vreinterpretq_u8_u16(uint16x8_t a) noexcept

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

    int8x8_t vld1_s8(const int8_t *p) noexcept
    int16x4_t vld1_s16(const int16_t *p) noexcept
    int32x4_t vld1q_s32(const int32_t *p) noexcept
    void vst4q_s8(int8_t *p, int8x16x4_t v) noexcept
    int16x4_t vdup_n_s16(int16_t x) noexcept
    uint16x8_t vdupq_n_u16(uint16_t x) noexcept
    uint64x2_t vdupq_n_u64(uint64_t x) noexcept

    int8x16_t vcombine_s8(int8x8_t low, int8x8_t high) noexcept
    int32x4_t vcombine_s32(int32x2_t low, int32x2_t high) noexcept
    int32x2_t vget_low_s32(int32x4_t a) noexcept
    int32x2_t vget_high_s32(int32x4_t a) noexcept
    uint8x8_t vget_low_u8(uint8x16_t a) noexcept
    uint16x4_t vget_low_u16(uint16x8_t a) noexcept
    uint16x4_t vget_high_u16(uint16x8_t a) noexcept
    int16x8_t vreinterpretq_s16_u64(uint64x2_t a) noexcept
    int32x4_t vreinterpretq_s32_u32(uint32x4_t a) noexcept
    int32x4_t vreinterpretq_s32_s8(int8x16_t a) noexcept
    int8x16_t vreinterpretq_s8_s32(int32x4_t a) noexcept
    int32x4_t vzip1q_s32(int32x4_t a, int32x4_t b) noexcept
    int32x4_t vzip2q_s32(int32x4_t a, int32x4_t b) noexcept

    uint8x16_t vaddq_u8(uint8x16_t a, uint8x16_t b) noexcept
    uint8x16_t vqtbl1q_u8(uint8x16_t table, uint8x16_t index) noexcept
    uint16x8_t vaddw_u8(uint16x8_t acc, uint8x8_t a) noexcept
    uint16x8_t vaddw_high_u8(uint16x8_t acc, uint8x16_t a) noexcept
    uint8x8_t vdup_n_u8(uint8_t x) noexcept
    uint16x8_t vmlal_u8(uint16x8_t acc, uint8x8_t a, uint8x8_t b) noexcept
    uint16x8_t vmlal_high_u8(uint16x8_t acc, uint8x16_t a, uint8x16_t b) noexcept
    uint32x4_t vaddw_u16(uint32x4_t acc, uint16x4_t a) noexcept
    uint32x4_t vshll_n_u16(uint16x4_t a, int n) noexcept
    int16x4_t vneg_s16(int16x4_t a) noexcept
    int16x4_t vmax_s16(int16x4_t a, int16x4_t b) noexcept
    int16_t vaddv_s16(int16x4_t a) noexcept
    int16x8_t vabsq_s16(int16x8_t a) noexcept
    int16x8_t vaddq_s16(int16x8_t a, int16x8_t b) noexcept
    int16x8_t vandq_s16(int16x8_t a, int16x8_t b) noexcept
    int16x8_t vshrq_n_s16(int16x8_t a, int n) noexcept
    int8x8_t vshrn_n_s16(int16x8_t a, int n) noexcept
    int32x4_t vpadalq_s16(int32x4_t acc, int16x8_t a) noexcept
    int32x4_t vsubq_s32(int32x4_t a, int32x4_t b) noexcept
    int32x4_t vmlsq_s32(int32x4_t acc, int32x4_t a, int32x4_t b) noexcept
    int32x4_t vshlq_n_s32(int32x4_t a, int n) noexcept
    int32x4_t vshlq_s32(int32x4_t a, int32x4_t n) noexcept
    uint32x4_t vcgtq_s32(int32x4_t a, int32x4_t b) noexcept
    int32x4_t vbslq_s32(uint32x4_t mask, int32x4_t a, int32x4_t b) noexcept
    uint8x8_t vld1_u8(const uint8_t *p) noexcept
    uint16x8_t vmovl_u8(uint8x8_t a) noexcept
    uint32x4_t vmovl_u16(uint16x4_t a) noexcept
    float32x4_t vreinterpretq_f32_s32(int32x4_t a) noexcept
    float32x4_t vreinterpretq_f32_u32(uint32x4_t a) noexcept

    # FEAT_DotProd and FEAT_I8MM: only in modules that are compiled for them.
    int32x4_t vdotq_laneq_s32(int32x4_t acc, int8x16_t a, int8x16_t b, int lane) noexcept
    int32x4_t vmmlaq_s32(int32x4_t acc, int8x16_t a, int8x16_t b) noexcept
