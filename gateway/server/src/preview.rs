//! What policies would let go, told before they are set.

use cx_api::{KeptView, PoliciesApply, PolicyPreview, Problem};
use gateway_journal::KeptPoint;
use gateway_store::Preview;

use crate::gateway::Gateway;
use crate::http::Answer;
use crate::problems;
use crate::retention::retention_of;

impl Gateway {
    /// Of each volume whose policy would change.
    pub(crate) async fn policy_previews(&self, wanted: PoliciesApply) -> Answer<Vec<PolicyPreview>> {
        let (_, records) = self.policy_records(&wanted.policies)?;
        let (store, asked) = (self.store.clone(), records.clone());
        let looked = tokio::task::spawn_blocking(move || store.preview(&asked)).await;
        let found = looked.map_err(problems::internal)?.map_err(|e| problems::stored(&e))?;
        let mut then = gateway_image::Catalogue::clone(&self.store.catalogue());
        then.apply_all(&records);
        let view = |preview: Preview| {
            let volume = then.volume(preview.volume);
            let name = volume.ok_or_else(|| problems::internal("the volume is gone"))?.name().clone();
            let retention = retention_of(&then.rules().policy_of(preview.volume));
            let kept = |p: KeptPoint| KeptView { lsn: p.lsn, time: p.captured_at };
            Ok::<_, Problem>(PolicyPreview {
                volume: name,
                retention,
                point_count: preview.points,
                goes: preview.goes,
                first: preview.between.map(|(first, _)| kept(first)),
                last: preview.between.map(|(_, last)| kept(last)),
                freed_bytes: preview.freed,
                is_estimate: preview.is_estimate,
                log_bytes: preview.log,
                over_limit_bytes: preview.over_limit,
            })
        };
        let mut all = found.into_iter().map(view).collect::<Answer<Vec<_>>>()?;
        all.sort_by(|a, b| a.volume.cmp(&b.volume));
        Ok(all)
    }
}
