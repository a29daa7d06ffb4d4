// OpenRouter's provider for the AI SDK and its own SDK at a gateway, run by test_cli.py: URL and key in, JSON out.
import { createOpenRouter } from '@openrouter/ai-sdk-provider'
import { OpenRouter } from '@openrouter/sdk'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'

const [url, key] = process.argv.slice(2)
const prompt = 'Hello!'
const messages = [{ role: 'user', content: prompt }]

async function aiSdk() {
  const router = createOpenRouter({ baseURL: `${url}/api/v1`, apiKey: key })
  const whole = await generateText({ model: router('lab/chat'), prompt })
  const stream = streamText({ model: router('lab/chat'), prompt })
  let streamed = ''
  for await (const piece of stream.textStream) streamed += piece
  const inputSchema = jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'] })
  const get_weather = tool({ description: 'The weather in a city.', inputSchema, execute: async () => '18 degrees' })
  const looped = await generateText({ model: router('lab/tools'), prompt, tools: { get_weather }, stopWhen: stepCountIs(3) })
  const error = await failed(() => generateText({ model: router('lab/fail-400'), prompt, maxRetries: 0 }))
  const patient = await generateText({ model: router('lab/patient-ai-sdk'), prompt, maxRetries: 2 })
  const costs = [whole.providerMetadata, await stream.providerMetadata].map((told) => told.openrouter.usage.cost)
  const calls = looped.steps[0].toolCalls.map((call) => call.toolName)
  return { said: whole.text, streamed, costs, calls, answered: looped.text, error, patient: patient.text }
}

async function ownSdk() {
  const router = new OpenRouter({ serverURL: `${url}/api/v1`, apiKey: key })
  const send = (model, more = {}) => router.chat.send({ chatRequest: { model, messages, ...more } })
  const whole = await send('lab/chat')
  let [streamed, last] = ['', null]
  for await (const chunk of await send('lab/chat', { stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? ''
    last = chunk
  }
  const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
  const tools = [{ type: 'function', function: { name: 'get_weather', parameters } }]
  const { toolCalls } = (await send('lab/tools', { tools })).choices[0].message
  const results = toolCalls.map((call) => ({ role: 'tool', toolCallId: call.id, content: '18 degrees' }))
  const answered = await send('lab/tools', { tools, messages: [...messages, { role: 'assistant', toolCalls }, ...results] })
  const error = await failed(() => send('lab/fail-400'))
  const [author, slug] = ['lab', 'chat']
  return {
    said: whole.choices[0].message.content,
    streamed,
    costs: [whole.usage.cost, last.usage.cost],
    calls: toolCalls.map((call) => call.function.name),
    answered: answered.choices[0].message.content,
    error,
    endpoints: (await router.endpoints.list({ author, slug })).data.endpoints.length,
    response: (await router.beta.responses.send({ responsesRequest: { model: 'lab/chat', input: prompt } })).usage.cost,
    key: (await router.apiKeys.getCurrentKeyMetadata()).data.usage,
    credits: (await router.credits.getCredits()).data.totalCredits,
  }
}

async function failed(call) {
  try {
    await call()
  } catch (error) {
    return error.statusCode
  }
}

console.log(JSON.stringify({ 'ai-sdk': await aiSdk(), 'own-sdk': await ownSdk() }))
